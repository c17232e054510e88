"""Pinned host memory: the device copies to it and from it without a wait of the host."""

import torch
from torch import Tensor


def pinned_like(tensor: Tensor) -> Tensor:
    """Host memory, without values, of the shape and the dtype of `tensor`; pinned if that is on a GPU."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
