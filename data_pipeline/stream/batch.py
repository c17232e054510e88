"""A batch as the trainer takes it: plain arrays.

Shape letters: B samples, L positions of a sample.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

IGNORE = -100
"""The target that carries no loss."""


@dataclass(frozen=True)
class Replacement:
    """A sample that could not be read, and the one that took its place."""

    g: int
    """The global sample."""
    source: str
    sample: int
    """Of the source, unreadable."""
    used: int
    """Sample of the source that was read instead."""
    shard: str
    offset_bytes: int
    """Where reading failed."""
    why: str


@dataclass
class Batch:
    """Samples side by side; every array int64, of shape (B, L)."""

    tokens_BL: IntArray
    targets_BL: IntArray
    """The token that follows each one, or IGNORE."""
    positions_BL: IntArray | None = None
    """Each token's position in its document, where attention stays inside documents: a 0 begins one. None: attention
    sees the whole sample."""
    num_padding: int = 0
    """Positions that hold no token of the corpus."""
    replaced: list[Replacement] = field(default_factory=list)
    """Samples that stand in for unreadable ones."""

    rows_BC: IntArray | None = None
    """Where each target is the next token: the one array, of shape (B, L + 1), that tokens and targets are views of."""

    @classmethod
    def of_rows(cls, num_samples: int, seq_len: int, *, with_positions: bool) -> "Batch":
        """A batch to be filled in through its rows, L + 1 tokens in a row of the stream each."""
        rows_BC = np.empty((num_samples, seq_len + 1), dtype=np.int64)
        positions_BL = np.empty((num_samples, seq_len), dtype=np.int64) if with_positions else None
        return cls(rows_BC[:, :-1], rows_BC[:, 1:], positions_BL, rows_BC=rows_BC)

    @classmethod
    def empty(cls, num_samples: int, seq_len: int) -> "Batch":
        """A batch to be filled in, with positions."""
        return cls(*np.empty((3, num_samples, seq_len), dtype=np.int64))
