"""The optimizer of this rank's parameters: one group for each set of factors, which the schedule then multiplies."""

from collections.abc import Sequence

import torch
from torch import nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.model.spec import Scale
from foretrain.trainer.optimizers.entry import entry_of


def build_optimizer(shards: Sequence[ParamShard], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names, with few groups: parameters of equal factors that decay, or that do not.

    Matrices and embeddings decay, gains and biases do not. A group's `peak_lr` is what the schedule multiplies.
    Parameters that share a tensor must have the same factors.
    """
    members: dict[tuple[Scale, bool], dict[nn.Parameter, None]] = {}  # dicts keep the order, and each tensor once
    for shard in shards:
        members.setdefault((shard.param.scale, shard.param.is_matrix), {})[shard.tensor] = None
    distinct = {parameter for parameters in members.values() for parameter in parameters}
    assert len(distinct) == sum(map(len, members.values())), "parameters that share a tensor need the same group"
    groups = [
        {
            "params": list(parameters),
            "name": _name(scale, decays),
            "peak_lr": config.lr * scale.lr,
            "lr": config.lr * scale.lr,
            "eps": config.eps * scale.eps,
            "weight_decay": config.weight_decay * scale.weight_decay if decays else 0.0,
        }
        # Sorted, since which parameters come first depends on the pipeline stage.
        for (scale, decays), parameters in sorted(members.items(), key=_sort_key)
    ]
    return entry_of(config).build(groups, config)


def _sort_key(member: tuple[tuple[Scale, bool], object]) -> tuple[float, ...]:
    scale, decays = member[0]
    return not decays, -scale.lr, -scale.eps, scale.weight_decay


def _name(scale: Scale, decays: bool) -> str:
    decay = f"decay x{scale.weight_decay:g}" if decays else "no decay"
    return f"lr x{scale.lr:g}, eps x{scale.eps:g}, {decay}"
