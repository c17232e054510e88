"""AdamW (arXiv 1711.05101): Adam with decoupled weight decay."""

from typing import TYPE_CHECKING, Any

from foretrain.configs.optimization import OptimizerConfig
from foretrain.trainer.optimizers.entry import OPTIMIZERS, OptimizerEntry

if TYPE_CHECKING:
    import torch


def _make(groups: list[dict[str, Any]], config: OptimizerConfig) -> "torch.optim.Optimizer":
    import torch

    # One kernel reads and writes each tensor once. Without it, torch makes temporaries as large as all parameters on a
    # GPU, and takes several times as long on CPUs.
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


OPTIMIZERS.register("adamw", OptimizerEntry(_make, states=("exp_avg", "exp_avg_sq"), step_degree=0, uses_eps=True))
