"""The global gradient norm where gradients are whole on every data-parallel rank, and clipping by it."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from parallel.groups import Groups


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], max_norm: float, groups: Groups) -> float:
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
