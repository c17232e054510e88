"""The parameters of ours in the tensors of another library, a part at a time, in fp32."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foretrain.progress import Advance
from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.parts import WEIGHT, Part
from foretrain.trainer.interop.importing.header import ITEM_BYTES
from foretrain.trainer.interop.importing.stored import Stored
from foretrain.trainer.interop.tensors import Source, Target

PART_ELEMENTS = 2**20
"""Elements of a part, 4 MiB in fp32. The checkpoint of a model of 70 billion parameters has 67,000 of them then, about
as many as that of a run of 100 ranks."""
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Portion:
    """Rows of a parameter of ours, and where they are in the tensor of another library."""

    target: Target
    source: Source
    first: int
    """The first of the rows, in the parameter."""
    stop: int
    """The row after the last one, in the parameter."""
    first_of_source: int
    """The row of the parameter's first row among those of all sources of the target."""

    @property
    def part(self) -> Part:
        """The same rows, as a part of a checkpoint whose values take no memory."""
        shape = self.source.shape
        box = Box((self.first, *(0 for _ in shape[1:])), (self.stop - self.first, *shape[1:]))
        return Part(WEIGHT, self.source.name, shape, box, torch.empty(box.sizes, device="meta"))


def portions_of(targets: Iterable[Target]) -> Iterator[Portion]:
    """Every row of every parameter in one portion, in the order of the targets."""
    for target in targets:
        first_of_source = 0
        for source in target.sources:
            num_rows, row_size = source.shape[0], torch.Size(source.shape[1:]).numel()
            step = max(1, PART_ELEMENTS // row_size)
            for first in range(0, num_rows, step):
                yield Portion(target, source, first, min(first + step, num_rows), first_of_source)
            first_of_source += num_rows


class Values:
    """Reads the values of portions from the tensors of their targets. `advance` counts the bytes that were read."""

    def __init__(self, stored: Mapping[str, Stored], advance: Advance) -> None:
        self._stored, self._advance = stored, advance
        self._transposed: tuple[str, Tensor] | None = None
        """The last target that is transposed, complete, since a row of ours is a column there."""

    def of(self, portion: Portion) -> Tensor:
        """The values in fp32, exactly: a contiguous tensor with a storage of its own."""
        first, stop = (portion.first_of_source + row for row in (portion.first, portion.stop))
        stored = self._stored[portion.target.name]
        if portion.target.is_transposed:
            columns = self._complete(stored)[:, first:stop]
            return torch.empty(columns.shape[::-1]).copy_(columns.T)
        row_bytes = torch.Size(portion.source.shape[1:]).numel() * ITEM_BYTES[stored.entry.dtype]
        return self._read(stored, first * row_bytes, stop * row_bytes).view(portion.part.box.sizes).float()

    def _complete(self, stored: Stored) -> Tensor:
        if self._transposed is None or self._transposed[0] != stored.name:
            self._transposed = None  # first, so that there is one at a time
            size = stored.entry.stop - stored.entry.start
            self._transposed = stored.name, self._read(stored, 0, size).view(stored.entry.shape)
        return self._transposed[1]

    def _read(self, stored: Stored, first: int, stop: int) -> Tensor:
        content = stored.read(first, stop)
        self._advance(len(content))
        return torch.frombuffer(content, dtype=_TYPES[stored.entry.dtype])
