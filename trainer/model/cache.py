"""Keys and values that a model has computed: with them, generation computes each position once.

Legend: B samples, R samples of one call, L new positions of a call, S positions of the samples, N query heads, K
key-value heads, H head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValueCache:
    """Keys and values of `batch_size` samples, each with at most `capacity` positions, for each attention layer."""

    def __init__(self, batch_size: int, capacity: int) -> None:
        self._batch_size, self.capacity = batch_size, capacity
        self._layers: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def layer(self, layer: nn.Module, like_LRKH: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, capacity, H) of a layer; they get memory when the layer asks first."""
        if layer not in self._layers:
            shape = (self._batch_size, like_LRKH.shape[2], self.capacity, like_LRKH.shape[3])
            self._layers[layer] = (like_LRKH.new_zeros(shape), like_LRKH.new_zeros(shape))
        return self._layers[layer]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these samples only, in this order."""
        self._batch_size = len(rows)
        for layer, tensors in self._layers.items():
            keys, values = (tensor[list(rows)] for tensor in tensors)
            self._layers[layer] = keys, values


@dataclass(frozen=True, eq=False)
class Continuation:
    """New positions of samples, whose earlier ones are in a cache."""

    cache: KeyValueCache
    rows: slice
    """The samples of the cache that the call has, R of them."""
    positions_RL: Tensor
    """The positions of the new tokens, on the device: all before them are in the cache."""
    end: int
    """One more than the largest of them."""
    is_even: bool
    """Whether they are the same for all samples."""

    @classmethod
    def of(
        cls, cache: KeyValueCache, rows: slice, starts: Sequence[int], num_new: int, device: torch.device
    ) -> "Continuation":
        """The next `num_new` positions of the samples `rows`, of which `starts` are in the cache already."""
        positions_RL = (torch.tensor(starts)[:, None] + torch.arange(num_new)).to(device)
        return cls(cache, rows, positions_RL, max(starts) + num_new, len(set(starts)) == 1)

    def attend(self, layer: nn.Module, q_LRNH: Tensor, k_LRKH: Tensor, v_LRKH: Tensor) -> Tensor:
        """Causal attention of new queries to all positions of their samples (R, N, L, H). Keeps the keys and values."""
        num_new = len(q_LRNH)
        keys_RKSH, values_RKSH = (tensor[self.rows] for tensor in self.cache.layer(layer, k_LRKH))
        if self.is_even:
            new = slice(self.end - num_new, self.end)
            keys_RKSH[:, :, new], values_RKSH[:, :, new] = k_LRKH.permute(1, 2, 0, 3), v_LRKH.permute(1, 2, 0, 3)
        else:
            at = self._samples, slice(None), self.positions_RL
            keys_RKSH[at], values_RKSH[at] = k_LRKH.transpose(0, 1), v_LRKH.transpose(0, 1)
        return F.scaled_dot_product_attention(
            q_LRNH.permute(1, 2, 0, 3),
            keys_RKSH[:, :, : self.end],
            values_RKSH[:, :, : self.end],
            attn_mask=self._is_seen,
            is_causal=self._is_start and num_new > 1,
            enable_gqa=q_LRNH.shape[2] != k_LRKH.shape[2],
        )

    @property
    def _is_start(self) -> bool:
        """Whether there are no earlier positions."""
        return self.is_even and self.positions_RL.shape[1] == self.end

    @cached_property
    def _samples(self) -> Tensor:
        """The number of each sample among `rows`, (R, 1)."""
        return torch.arange(len(self.positions_RL), device=self.positions_RL.device)[:, None]

    @cached_property
    def _is_seen(self) -> Tensor | None:
        """Which positions of its sample each query attends to, (R, 1, L, S); None: all, or as `is_causal` says."""
        if self._is_start or (self.is_even and self.positions_RL.shape[1] == 1):
            return None
        return torch.arange(self.end, device=self.positions_RL.device) <= self.positions_RL[:, None, :, None]
