"""What the stages of a pipeline cost, counted in FLOPs, and the layout that balances them. Imports no torch."""

from dataclasses import dataclass, replace

from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.parallel.balance import split
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.table import block_flops, head_flops


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
    block = block_flops(model, causal=True)
    again = {"none": 0.0, "selective": block.selective / 3, "full": block.total / 3}[train.recompute]
    share = min(train.recompute_layers or model.num_layers, model.num_layers) / model.num_layers
    return Costs(first=0.0, block=block.total + share * again, last=head_flops(model))


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
