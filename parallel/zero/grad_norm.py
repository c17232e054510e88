"""The global gradient norm over all ranks."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
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
def global_norm(counted: Iterable[Tensor], groups: Groups) -> Tensor:
    """The L2 norm of all ranks' tensors together, a float64 scalar on the device. Every rank must call it."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in counted]
    squares = torch.stack(norms or [torch.zeros((), dtype=torch.float64, device=groups.device)]).square().sum()
    dist.all_reduce(squares)
    return squares.sqrt()


@torch.no_grad()
def clip(gradients: Iterable[Tensor], norm: Tensor, max_norm: float) -> None:
    """Scale gradients in place so that a global norm of `norm` becomes at most `max_norm` (0: leave them).

    The factor stays on the device, so that the host does not wait for it.
    """
    if max_norm == 0:
        return
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0).float()
    for gradient in gradients:
        gradient.mul_(factor)


def patch_grad_norm(optimizer: Any) -> None:
    """Patch DeepSpeed's gradient norm (ZeRO 1 and 2) for pipeline ranks with different optimizer groups.

    DeepSpeed 0.19 sums the norm over tp x pp for one parameter group after the other. If a stage has a group that
    another does not have, it sums the norms of different groups, or waits forever. The patch sums once, over all groups
    of a rank. If all ranks have the same groups, nothing changes. Every rank must call it.
    """
    names = [group.get("name") for group in optimizer.param_groups]
    everyones: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyones, names)
    if all(names == others for others in everyones) or not hasattr(optimizer, "scaled_global_norm"):
        return
    norm_of_rank, sum_over_ranks = optimizer.scaled_global_norm, optimizer._model_parallel_all_reduce

    def scaled_global_norm(norm_type: int = 2) -> torch.Tensor:
        optimizer._model_parallel_all_reduce = lambda tensor, op: None
        try:
            square = norm_of_rank(norm_type).pow(2)
        finally:
            optimizer._model_parallel_all_reduce = sum_over_ranks
        sum_over_ranks(tensor=square, op=dist.ReduceOp.SUM)
        return square.sqrt()

    optimizer.scaled_global_norm = scaled_global_norm
