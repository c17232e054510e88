"""FLOPs of the stages of a pipeline, and the layout that balances them. Imports no torch."""

from dataclasses import dataclass, replace

from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.parallel.balance import split
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.logits import recomputed_head_flops
from foretrain.trainer.model.table import block_flops, head_flops, recomputed_flops


@dataclass(frozen=True)
class Costs:
    """Costs of forward and backward of the parts of a model, in one unit: only their ratios matter."""

    first: float
    """The first stage without its blocks: the embedding."""
    block: float
    """One block."""
    last: float
    """The last stage without its blocks: final norm, head and loss."""


def flop_costs(model: ModelConfig, train: TrainConfig, layout: Layout) -> Costs:
    """FLOPs of training on one token. The embedding and the norms count as 0.

    Attention counts below the diagonal only, since its kernels compute no more. Recomputation runs forward, a third of
    the cost, twice; so does a head whose logits are computed in parts. If only some blocks recompute, `block` is the
    mean.
    """
    block = block_flops(model, causal=True)
    again = recomputed_flops(block, train, model.num_layers) / model.num_layers
    return Costs(
        first=0.0, block=block.total + again, last=head_flops(model) + recomputed_head_flops(model, train, layout)
    )


def balance_stages(layout: Layout, num_layers: int, costs: Costs) -> Layout:
    """`layout` with the split of `num_layers` blocks that makes its slowest pipeline rank fastest."""
    sizes = split(
        num_layers,
        layout.num_stages,
        block=costs.block,
        first=costs.first,
        last=costs.last,
        holders=[layout.stage_to_pp_rank(stage) for stage in range(layout.num_stages)],
    )
    # An even split is the default of a layout.
    return replace(layout, stage_layers=tuple(sizes) if len(set(sizes)) > 1 else None)
