"""The global gradient norm over all ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from foretrain.parallel.groups import Groups


def is_counted(parameter: nn.Parameter, groups: Groups) -> bool:
    """Whether this tensor- and pipeline-parallel rank counts the gradient of `parameter` in the global norm.

    Every rank counts its part of a sharded parameter, the first rank alone a replicated one, and no rank the second
    copy of a tied embedding (`ds_pipe_replicated`, a mark of DeepSpeed's).
    """
    is_first_copy = getattr(parameter, "tensor_model_parallel", False) or groups.at.tp == 0
    return bool(is_first_copy) and not getattr(parameter, "ds_pipe_replicated", False)


@torch.no_grad()
def sum_of_squares(counted: list[Tensor], device: torch.device) -> Tensor:
    """The sum of the squares of all elements of this rank's tensors, a float64 scalar on the device."""
    if not counted:
        return torch.zeros((), dtype=torch.float64, device=device)
    # On a GPU, a few kernels for all tensors.
    return torch.stack(torch._foreach_norm(counted, 2, torch.float64)).square().sum()


@torch.no_grad()
def clip(gradients: Iterable[Tensor], norm: float, max_norm: float) -> None:
    """Scale gradients in place so that a global norm of `norm` becomes at most `max_norm` (0: leave them)."""
    if max_norm == 0:
        return
    factor = min(max_norm / (norm + 1e-6), 1.0)
    if factor == 1.0:
        return
    for gradient in gradients:
        gradient.mul_(factor)
