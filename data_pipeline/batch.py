"""A batch as the trainer takes it: plain arrays.

Shape letters: B samples, L positions of a sample.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

IGNORE = -100
"""The target that carries no loss."""


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

    @classmethod
    def empty(cls, num_samples: int, seq_len: int, *, with_positions: bool) -> "Batch":
        """A batch to be filled in."""
        tokens_BL, targets_BL = np.empty((2, num_samples, seq_len), dtype=np.int64)
        positions_BL = np.empty((num_samples, seq_len), dtype=np.int64) if with_positions else None
        return cls(tokens_BL, targets_BL, positions_BL)
