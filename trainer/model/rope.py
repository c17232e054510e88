"""Rotary position embedding (arXiv 2104.09864).

Legend: L sequence, B batch, N heads, H head width.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def rope_tables(seq_len: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin (L, H) of rotary angles in fp32; dimension i is rotated together with i + H / 2.

    They are no buffers of a module, because a cast of the module to bf16 would round them.
    """
    frequency = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float().to(device), angle.sin().float().to(device)


def rotate(x_LBNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of queries or keys, computed in fp32 and returned in the input's dtype.

    `cos` and `sin` are (L, B, 1, H), or (L, 1, 1, H) if all samples have the same positions.
    """
    low, high = x_LBNH.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (x_LBNH * cos + turned * sin).to(x_LBNH.dtype)
