"""Optimizers from outside the packages, as a user's plugin would add them."""

from typing import Any

import torch
from torch import Tensor

from foretrain.configs.optimization import OptimizerConfig
from foretrain.trainer.optimizers.entry import OPTIMIZERS, OptimizerEntry


class SoftLion(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675) with x / (|x| + eps) for sign(x), so that rounding errors do not flip a step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        trend = self.state[parameter].setdefault("trend", torch.zeros_like(parameter))
        direction = torch.lerp(gradient, trend, group["inertia"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(group["lr"] * direction / (direction.abs() + group["eps"]))
        trend.lerp_(gradient, 1 - group["memory"])


def make_lion(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    return SoftLion(groups, {"lr": config.lr, "memory": config.beta2, **config.options})


class NormalizedSGD(torch.optim.Optimizer):
    """Steps of one length for each matrix: it works on matrices in one piece alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in filter(lambda each: each.grad is not None, group["params"]):
                parameter.sub_(group["lr"] * parameter.grad / parameter.grad.norm())


OPTIMIZERS.register(
    "soft_lion",
    OptimizerEntry(make_lion, states=("trend",), step_degree=0, uses_eps=True, options={"inertia": 0.9}),
)
OPTIMIZERS.register(
    "lion_without_a_rule", OptimizerEntry(make_lion, states=("trend",), step_degree=None, options={"inertia": 0.9})
)
OPTIMIZERS.register(
    "normalized_sgd",
    OptimizerEntry(
        lambda groups, config: NormalizedSGD(groups, {"lr": config.lr}),
        states=(),
        step_degree=None,
        needs_matrices=True,
    ),
)
