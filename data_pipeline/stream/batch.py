"""A batch in the form that the trainer takes: plain arrays.

Shape letters: B samples, L positions of a sample, C = L + 1 tokens of a row.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

IGNORE = -100
"""Target of a position that carries no loss."""


@dataclass(frozen=True)
class Replacement:
    """A sample that could not be read, and the sample that took its place."""

    g: int
    """Number of the global sample."""
    source: str
    sample: int
    """Number, in its source, of the sample that could not be read."""
    used: int
    """Number, in its source, of the sample that was read instead."""
    shard: str
    """Shard in which reading failed."""
    offset_bytes: int
    """Byte of the shard at which reading failed."""
    why: str


@dataclass
class Batch:
    """Samples side by side. Every array is int64 of shape (B, L)."""

    tokens_BL: IntArray
    targets_BL: IntArray
    """Next token of each position, or IGNORE."""
    positions_BL: IntArray | None = None
    """Position of each token in its document: a 0 begins a document, and attention stays inside documents. None means
    that attention sees the full sample."""
    num_padding: int = 0
    """Number of positions that hold no token of the corpus."""
    replaced: list[Replacement] = field(default_factory=list)
    """Samples that could not be read, and what was read instead."""
    samples_B: IntArray | None = None
    """Global number of each sample, shape (B,)."""

    rows_BC: IntArray | None = None
    """If each target is the token at the next position: the array, of shape (B, L + 1), of which tokens and targets are
    views."""

    @classmethod
    def of_rows(cls, num_samples: int, seq_len: int, *, with_positions: bool) -> "Batch":
        """Return a batch to be filled through its rows, each of which holds L + 1 consecutive tokens of the stream."""
        rows_BC = np.empty((num_samples, seq_len + 1), dtype=np.int64)
        positions_BL = np.empty((num_samples, seq_len), dtype=np.int64) if with_positions else None
        return cls(rows_BC[:, :-1], rows_BC[:, 1:], positions_BL, rows_BC=rows_BC)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.rows_BC is not None:  # tokens and targets are views of it, which would be copied one by one
            del state["tokens_BL"], state["targets_BL"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.rows_BC is not None:
            self.tokens_BL, self.targets_BL = self.rows_BC[:, :-1], self.rows_BC[:, 1:]
