"""Where the members of a split lie: a flat array beside the shards, written with them and mapped into memory.

One row of int64 for each column below, so that a search through one column touches that column only; a member is 40
bytes, and 10 TB of tokens in members of 1 MiB are 400 MB of file, of which reading touches the pages it needs.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import SplitInfo
from foretrain.data_pipeline.errors import CorpusError

IntArray = npt.NDArray[np.int64]

REMEDY = "copy it anew, or prepare the corpus again"
COLUMNS = ("start", "tokens_at", "lens_at", "num_lens", "num_documents")


class IndexRows:
    """The rows of an index while it grows, in one flat array."""

    def __init__(self, rows: npt.ArrayLike = ()) -> None:
        """`rows`: as `to_array` gives them."""
        self._flat = array("q", np.asarray(rows, dtype=np.int64).ravel().tobytes())

    def add(self, *, num_tokens: int, tokens_at: int, lens_at: int, num_lens: int, num_documents: int) -> None:
        """Append a member; the fields are those of `Index`."""
        self._flat.extend((num_tokens, tokens_at, lens_at, num_lens, num_documents))

    def to_array(self) -> IntArray:
        """Return a copy of shape (num_members, 5): num_tokens, then the columns but `start`."""
        return np.array(self._flat, dtype=np.int64).reshape(-1, len(COLUMNS))

    def write(self, path: Path) -> None:
        """Write the index file. The same rows give the same bytes."""
        np.save(path, np.ascontiguousarray(_columns(self.to_array()), dtype="<i8"), allow_pickle=False)


@dataclass(frozen=True)
class Index:
    """The members of all shards of a split, in order; int64 arrays of shape (num_members,) unless stated otherwise."""

    first_members: IntArray
    """Of each shard; at the end, the number of members: shape (num_shards + 1,)."""
    shard_starts: IntArray
    """Position in the stream of each shard's first token; at the end, the length of the stream: (num_shards + 1,)."""
    start: IntArray
    """Position in the stream of each member's first token; at the end, the length of the stream: (num_members + 1,)."""
    tokens_at: IntArray
    """Byte offset of the member's first token in its shard's file."""
    lens_at: IntArray
    """Byte offset of the first of the lengths (int64) of its documents, or parts of documents."""
    num_lens: IntArray
    num_documents: IntArray
    """Documents that end in the member: num_lens, or one less where the last part's document goes on in the next."""

    @classmethod
    def open(cls, path: Path, split: SplitInfo) -> "Index":
        """Map the index file of a split into memory. Raises CorpusError where it is missing, or of another split."""
        try:
            columns = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, TokenError) as error:
            raise CorpusError(f"{path} cannot be read ({error}): {REMEDY}") from error
        counts = np.array([(shard.num_members, shard.num_tokens) for shard in split.shards], dtype=np.int64)
        first_members, shard_starts = np.concatenate([[[0, 0]], np.cumsum(counts.reshape(-1, 2), axis=0)]).T.copy()
        shape = len(COLUMNS), int(first_members[-1]) + 1
        if columns.dtype != np.dtype("<i8") or columns.shape != shape:
            raise CorpusError(
                f"{path} holds {columns.dtype} of shape {columns.shape}, and int64 of {shape} was written: {REMEDY}"
            )
        start, *others = np.asarray(columns)  # a plain array: numpy's memmap class costs time at every slice
        wrong = np.flatnonzero(start[first_members] != shard_starts)
        if len(wrong):
            name = split.shards[max(0, int(wrong[0]) - 1)].name
            raise CorpusError(f"{path} and the manifest disagree on the tokens of {name}: {REMEDY}")
        return cls(first_members, shard_starts, start, *(column[:-1] for column in others))


def _columns(rows: IntArray) -> IntArray:
    columns = np.zeros((len(COLUMNS), len(rows) + 1), dtype=np.int64)
    np.cumsum(rows[:, 0], out=columns[0, 1:])
    columns[1:, :-1] = rows[:, 1:].T
    return columns
