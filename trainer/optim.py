"""The optimizer of this rank's parameters: one group for each set of factors, which the schedule then multiplies."""

from collections.abc import Sequence

import torch
from torch import nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.model.spec import Param, Scale


def build_optimizer(shards: Sequence[ParamShard], config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's AdamW, or its SGD with momentum, with few groups: parameters of equal factors that decay, or do not.

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
            "peak_lr": config.lr * scale.lr,
            "lr": config.lr * scale.lr,
            "eps": config.eps * scale.eps,
            "weight_decay": config.weight_decay * scale.weight_decay if decays else 0.0,
            "name": _name(scale, decays),
        }
        # In an order of their own: which parameters come first depends on the pipeline stage.
        for (scale, decays), parameters in sorted(members.items(), key=_place)
    ]
    if config.kind == "sgd":
        for group in groups:
            del group["eps"]
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.beta1)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def _place(member: tuple[tuple[Scale, bool], object]) -> tuple[float, ...]:
    scale, decays = member[0]
    return not decays, -scale.lr, -scale.eps, scale.weight_decay


def factors(param: Param) -> str:
    """The factors of a parameter's optimizer, in words."""
    return _name(param.scale, param.is_matrix)


def _name(scale: Scale, decays: bool) -> str:
    decay = f"decay x{scale.weight_decay:g}" if decays else "no decay"
    return f"lr x{scale.lr:g}, eps x{scale.eps:g}, {decay}"
