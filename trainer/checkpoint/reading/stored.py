"""Where the elements of a stored tensor are in its file, and what of them a rank needs."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from foretrain.trainer.checkpoint.boxes import Box, boxes_of
from foretrain.trainer.checkpoint.frames import frame_of

ITEM_BYTES = 4
"""Bytes of an element: everything is stored in fp32."""
_RECORD = struct.Struct("<4s22xHH")
"""What precedes a record of a zip file: a mark, bytes of the record's name, and bytes of the padding that follows."""
_MARK = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class Wanted:
    """A box of a stored tensor, whose elements this rank needs. Offsets and sizes of the last dim are in bytes."""

    header: int
    """Where in the file begins what torch.save has written before the elements."""
    first: int
    """Where in the file the first element of the stored tensor is."""
    sizes: tuple[int, ...]
    """Sizes of the stored tensor."""
    box: Box
    """What is needed of it."""
    target: Tensor
    """Where it is needed: bytes, of the box' sizes."""

    @classmethod
    def of(
        cls,
        start: int,
        first: int,
        sizes: Sequence[int],
        offsets: Sequence[int],
        lengths: Sequence[int],
        target: Tensor,
    ) -> "Wanted":
        """`sizes` of the stored tensor, and `offsets` and `lengths` of the box in it, in elements."""
        box = Box(_in_bytes(offsets), _in_bytes(lengths))
        return cls(start, first, _in_bytes(sizes), box, target.view(torch.uint8))

    @property
    def span(self) -> tuple[int, int]:
        """The bytes of the file, from the first one that is needed up to the one after the last."""
        first = self.first + _flat(self.sizes, self.box.offsets)
        last = [offset + size - 1 for offset, size in zip(self.box.offsets, self.box.sizes, strict=True)]
        return first, self.first + _flat(self.sizes, last) + 1

    def take(self, start: int, content: Tensor) -> None:
        """Copy what is needed of some bytes of the file, which begin at its byte `start`.

        Raises ValueError if they show that the elements are elsewhere.
        """
        self._check_header(start, content)
        first, stop = self.span
        first, stop = max(first, start) - self.first, min(stop, start + len(content)) - self.first
        place = self.first + first - start
        for box in boxes_of(self.sizes, first, stop):
            self._copy(box, content[place : place + box.num_elements].view(box.sizes))
            place += box.num_elements

    def _copy(self, box: Box, source: Tensor) -> None:
        """Copy what is needed of `box`."""
        target = self.target
        for dim in range(len(self.sizes)):
            low = max(box.offsets[dim], self.box.offsets[dim])
            length = min(box.offsets[dim] + box.sizes[dim], self.box.offsets[dim] + self.box.sizes[dim]) - low
            if length <= 0:
                return
            source = source.narrow(dim, low - box.offsets[dim], length)
            target = target.narrow(dim, low - self.box.offsets[dim], length)
        target.copy_(source)

    def _check_header(self, start: int, content: Tensor) -> None:
        if not start <= self.header <= self.first <= start + len(content):
            return
        header = content[self.header - start : self.first - start].numpy().tobytes()
        place = header.rfind(_MARK)
        if place < 0 or place + _RECORD.size + sum(_RECORD.unpack_from(header, place)[1:]) != len(header):
            raise ValueError(
                "the checkpoint has tensors in an unknown form: load it with the torch that has written it"
            )


def place_of_elements(sizes: Sequence[int], num_bytes: int) -> int | None:
    """How many bytes precede the elements of a tensor of these sizes where torch.save has written it.

    None if it did not need `num_bytes`: another version of torch has written it.
    """
    place, size = _layout(tuple(sizes))
    return place if size == num_bytes else None


@cache
def _layout(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Bytes that precede the elements, and all bytes, of what torch.save writes."""
    with FakeTensorMode():  # which needs no memory
        tensor = torch.empty(sizes, device="cpu")
        frame = frame_of(tensor)
    return len(frame.before), len(frame.before) + tensor.nbytes + len(frame.after)


def _in_bytes(sizes: Sequence[int]) -> tuple[int, ...]:
    return (*sizes[:-1], sizes[-1] * ITEM_BYTES)


def _flat(sizes: Sequence[int], indices: Sequence[int]) -> int:
    """The place of an element in a flattened tensor."""
    return sum(index * prod(sizes[dim + 1 :]) for dim, index in enumerate(indices))
