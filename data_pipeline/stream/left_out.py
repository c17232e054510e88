"""The global samples that a run leaves out, and the numbers of those that it trains on. Pure arithmetic."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.stream.batch import IntArray


@dataclass(frozen=True)
class LeftOut:
    """Ranges of global sample numbers, [start, end), in their order, that neither overlap nor touch."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Sequence[int]]) -> Self:
        """The union of ranges in any order."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted((start, end) for start, end in ranges if start < end):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return cls(tuple(merged))

    @property
    def count(self) -> int:
        """Samples in all ranges."""
        return sum(end - start for start, end in self.ranges)

    def numbers(self, consumed: npt.ArrayLike) -> IntArray:
        """The global number of the sample after that many consumed ones, int64 in the shape of `consumed`."""
        g: IntArray = np.array(consumed, dtype=np.int64)
        for start, end in self.ranges:
            g = np.where(g >= start, g + (end - start), g)
        return g

    def number(self, consumed: int) -> int:
        """The global number of the sample after `consumed` ones."""
        return int(self.numbers(consumed))

    def consumed_before(self, g: int) -> int | None:
        """Samples that are consumed before global sample `g`; None if it is left out."""
        before = g
        for start, end in self.ranges:
            if start <= g < end:
                return None
            before -= end - start if end <= g else 0
        return before


NOTHING = LeftOut()
"""What a run without rollbacks leaves out."""
