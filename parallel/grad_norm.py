"""The global gradient norm, and clipping by it, where DeepSpeed's own is wrong."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from foretrain.parallel.groups import Groups


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float, groups: Groups) -> float:
    """Scale gradients in place so that their global L2 norm is at most `max_norm` (0: leave them); returns the norm.

    Sharded parameters count on every tensor-parallel rank, replicated ones on the first, and the second copy of a tied
    embedding (`ds_pipe_replicated`) nowhere. Every rank of a tp x pp group must call it.
    """
    owned = [p for p in parameters if p.grad is not None]
    counted = [
        p.grad
        for p in owned
        if (getattr(p, "tensor_model_parallel", False) or groups.at.tp == 0)
        and not getattr(p, "ds_pipe_replicated", False)
    ]
    squares = torch.zeros((), dtype=torch.float64, device=groups.device)
    for gradient in counted:
        squares += gradient.pow(2).sum(dtype=torch.float64)  # type: ignore[union-attr]
    for group in (groups.tp, groups.pp):
        dist.all_reduce(squares, group=group)
    total = squares.sqrt().item()
    if max_norm > 0 and total > max_norm:
        for parameter in owned:
            parameter.grad.mul_(max_norm / (total + 1e-6))  # type: ignore[union-attr]
    return total


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
