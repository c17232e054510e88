"""SGD with momentum `optimizer.beta1`. Its weight decay is added to the gradient."""

from typing import TYPE_CHECKING, Any

from foretrain.configs.optimization import OptimizerConfig
from foretrain.trainer.optimizers.entry import OPTIMIZERS, OptimizerEntry

if TYPE_CHECKING:
    import torch


def _make(groups: list[dict[str, Any]], config: OptimizerConfig) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.SGD(groups, lr=config.lr, momentum=config.beta1)


OPTIMIZERS.register("sgd", OptimizerEntry(_make, states=("momentum_buffer",), step_degree=1))
