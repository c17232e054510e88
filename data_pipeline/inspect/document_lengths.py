"""Exact counts of document lengths, in memory that grows only with the number of different lengths.

There are few different lengths: n tokens hold documents of at most sqrt(2 n) lengths, 2 million in 2 trillion tokens.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.stream.batch import IntArray

PERCENTS = (1, 10, 25, 50, 75, 90, 99)
MERGED_AT_ONCE = 1 << 16
"""Least number of lengths that are merged into the counts in one step."""


@dataclass(frozen=True)
class LengthBin:
    """The documents of [low, 2 * low) tokens."""

    low: int
    num_documents: int
    num_tokens: int


@dataclass(frozen=True)
class Lengths:
    """Lengths of documents in tokens, with the EOT token that ends each document."""

    num_documents: int
    num_tokens: int
    mean: float
    min: int
    max: int
    percentiles: dict[str, int]
    """By percentage p: the least length that at least p percent of the documents do not exceed."""
    bins: list[LengthBin]
    """From the bin of the shortest document to that of the longest, empty bins too; `low` is a power of two."""


class LengthCounter:
    """Counts lengths that are given in several parts."""

    def __init__(self) -> None:
        self._length, self._count = np.empty((2, 0), dtype=np.int64)
        self._waiting: list[tuple[IntArray, IntArray]] = []
        self._num_waiting = 0

    def add(self, lengths: IntArray) -> None:
        """Count lengths, each at least 1."""
        length, count = np.unique(lengths, return_counts=True)
        self._waiting.append((length, count))
        self._num_waiting += len(length)
        if self._num_waiting > max(MERGED_AT_ONCE, len(self._length)):
            self._merge()

    def lengths(self) -> Lengths:
        """Return the statistics of the lengths so far, of which there must be at least one."""
        self._merge()
        length, count = self._length, self._count
        assert len(length), "no document was counted"
        cumulative = np.cumsum(count)
        num_documents, num_tokens = int(cumulative[-1]), int((length * count).sum())
        ranks = [-(-percent * num_documents // 100) for percent in PERCENTS]  # rounded up
        at_percent = length[np.searchsorted(cumulative, ranks)]
        return Lengths(
            num_documents=num_documents,
            num_tokens=num_tokens,
            mean=num_tokens / num_documents,
            min=int(length[0]),
            max=int(length[-1]),
            percentiles={str(percent): int(value) for percent, value in zip(PERCENTS, at_percent, strict=True)},
            bins=self._bins(),
        )

    def _merge(self) -> None:
        lengths, counts = zip((self._length, self._count), *self._waiting, strict=True)
        self._length, place = np.unique(np.concatenate(lengths), return_inverse=True)
        # Not with the weights of np.bincount: it would add the counts as floats.
        self._count = np.zeros(len(self._length), dtype=np.int64)
        np.add.at(self._count, place, np.concatenate(counts))
        self._waiting, self._num_waiting = [], 0

    def _bins(self) -> list[LengthBin]:
        first, last = (int(length).bit_length() - 1 for length in self._length[[0, -1]])
        powers = range(first, last + 1)
        edges = np.searchsorted(self._length, [1 << power for power in (*powers, last + 1)])
        parts = [slice(begin, end) for begin, end in pairwise(edges)]
        return [
            LengthBin(1 << power, int(self._count[part].sum()), int((self._length[part] * self._count[part]).sum()))
            for power, part in zip(powers, parts, strict=True)
        ]
