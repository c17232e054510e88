"""Bytes of the tensors that live on the device and on the host, and the most at any moment."""

import weakref
from functools import partial
from typing import Literal

from torch import Tensor

Place = Literal["cuda", "cpu"]

ROUND_DEVICE_BYTES = 512
"""CUDA's allocator gives memory in multiples of this."""


def place_of(tensor: Tensor) -> Place:
    """Where a tensor is."""
    return "cuda" if tensor.device.type == "cuda" else "cpu"


class LiveStorages:
    """Follows storages from the first operation that returns them until torch frees them.

    Counts what torch.cuda.memory_allocated would: the sizes as the allocators round them, and no fragmentation. Pinned
    host memory is rounded up to a power of two, as torch's allocator does.
    """

    def __init__(self) -> None:
        self.live: dict[Place, int] = {"cuda": 0, "cpu": 0}
        self.peak = dict(self.live)
        self._storages: dict[int, tuple[weakref.ref[object], Place, int]] = {}
        self._pinned: set[int] = set()

    def follow(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, at its present size."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._storages.get(key)
        place = place_of(tensor)
        num_bytes = self._allocated(key, place, storage.nbytes())
        if known is not None:
            if known[2] == num_bytes:
                return
            self.live[place] -= known[2]
        reference: weakref.ref[object] = weakref.ref(storage, partial(self._forget, key))
        self._storages[key] = (reference, place, num_bytes)
        self.live[place] += num_bytes
        self.peak[place] = max(self.peak[place], self.live[place])

    def pin(self, tensor: Tensor) -> None:
        """Note that the tensor's host memory is pinned."""
        self._pinned.add(tensor.untyped_storage()._cdata)
        self.follow(tensor)

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the tensor is in pinned host memory."""
        return tensor.untyped_storage()._cdata in self._pinned

    def start_peak(self) -> None:
        """From now on, the peak is that of what follows."""
        self.peak = dict(self.live)

    def _allocated(self, key: int, place: Place, num_bytes: int) -> int:
        if place == "cuda":
            return -(-num_bytes // ROUND_DEVICE_BYTES) * ROUND_DEVICE_BYTES
        if key in self._pinned and num_bytes:
            return int(1 << (num_bytes - 1).bit_length())
        return num_bytes

    def _forget(self, key: int, reference: object = None) -> None:
        _, place, num_bytes = self._storages.pop(key)
        self._pinned.discard(key)
        self.live[place] -= num_bytes
