"""A checksum of the bits of a tensor, in integer arithmetic that gives the same result on every device."""

import torch
from torch import Tensor

_INT_OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
CHUNK = 1 << 18
"""Elements that are processed at once: the three int64 temporaries take 6 MiB, which caches can hold."""
CURVATURE = 0x1E3779B97F4A7C15
"""The constant a in the weights of the checksum."""


def bits_of(tensor: Tensor) -> Tensor:
    """The bits of a tensor, flattened, as integers of up to 32 bits."""
    flat = tensor.detach().reshape(-1)
    return flat.view(_INT_OF_BYTES[min(flat.element_size(), 4)])


def checksum(tensor: Tensor) -> Tensor:
    """The checksum of a tensor: an int64 scalar on its device. Any dtype; fewer than 2^32 elements.

    It is the sum of bits_p * w_p modulo 2^64, with w_p = 1 + 2 p + 4 a p^2 for position p. Because w_p is odd, a change
    of any one element changes the sum. Because w_p - w_q = 2 (p - q) (1 + 2 a (p + q)) has at most 32 factors of two, a
    swap of any two unequal elements changes it too (for elements of up to 32 bits; wider ones are split into halves).
    Other changes cancel only by rare chance.
    """
    flat = bits_of(tensor)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), CHUNK):
        bits = flat[start : start + CHUNK]
        position = torch.arange(start, start + len(bits), device=flat.device)
        weight = (position * (4 * CURVATURE)).add_(2).mul_(position).add_(1)
        total += weight.mul_(bits).sum()
    return total
