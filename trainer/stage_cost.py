"""What the stages of a pipeline cost, counted in FLOPs, and the layout that balances them. Imports no torch."""

from dataclasses import dataclass, replace

from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.parallel.balance import split
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.spec import Shape, flops_per_token


@dataclass(frozen=True)
class Costs:
    """Forward and backward of the parts of a model, all three in one unit: only their ratios matter."""

    first: float
    """What the first stage does besides its blocks: the embedding."""
    block: float
    last: float
    """What the last stage does besides its blocks: final norm, head and loss."""


def counted(model: ModelConfig, train: TrainConfig) -> Costs:
    """FLOPs of training on one token. An embedding is looked up, and norms are as good as free; the head is a matrix.

    Attention is counted below the diagonal only, as its kernels compute it. What a block recomputes, it runs forward
    twice, a third of its cost more; where only some blocks do, `block` is the mean.
    """
    shape = Shape.of(model)
    head = 6.0 * shape.vocab_size * shape.d_model
    attention = 6.0 * shape.num_heads * shape.head_dim * shape.seq_len
    block = (flops_per_token(model, causal=True) - head) / shape.num_layers
    again = {"none": 0.0, "selective": attention / 3, "full": block / 3}[train.recompute]
    share = min(train.recompute_layers or shape.num_layers, shape.num_layers) / shape.num_layers
    return Costs(first=0.0, block=block + share * again, last=head)


def balanced(layout: Layout, num_layers: int, costs: Costs) -> Layout:
    """`layout` with the split of `num_layers` blocks under which its slowest pipeline rank is fastest."""
    sizes = split(
        num_layers,
        layout.num_stages,
        block=costs.block,
        first=costs.first,
        last=costs.last,
        holders=[layout.stage_to_pp_rank(stage) for stage in range(layout.num_stages)],
    )
    # All equal is what a layout does anyway, and then has nothing to say about.
    return replace(layout, stage_layers=tuple(sizes) if len(set(sizes)) > 1 else None)
