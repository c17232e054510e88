"""Where the samples of a split are: a flat array beside the shards, which is mapped into memory.

The file has one row of int64 for each of the columns below, so that a search through a column touches only that column.
A sample takes 40 bytes: 10 TB of tokens in samples of 1 MiB have an index of 400 MB, of which reading touches a few
pages.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import SplitInfo
from foretrain.data_pipeline.errors import REMEDY, CorpusError, remedy_of

IntArray = npt.NDArray[np.int64]

MAX_HEADER_BYTES = 4096
"""More than the header that numpy writes before the rows."""

FIRST_BYTES = b"\x93NUMPY\x01\x00\x76\x00"
"""Magic, version and length of that header."""

COLUMNS = ("start", "tokens_at", "lens_at", "num_lens", "num_documents")


class IndexRows:
    """The rows of an index that is being written, in one flat array."""

    def __init__(self, rows: npt.ArrayLike = ()) -> None:
        """Start with rows that `to_array` has returned."""
        self._flat = array("q", np.asarray(rows, dtype=np.int64).ravel().tobytes())

    def add(self, *, num_tokens: int, tokens_at: int, lens_at: int, num_lens: int, num_documents: int) -> None:
        """Append a sample; the fields are those of `Index`."""
        self._flat.extend((num_tokens, tokens_at, lens_at, num_lens, num_documents))

    def to_array(self) -> IntArray:
        """Return a copy of shape (num_members, 5): num_tokens, then the columns except `start`."""
        return np.array(self._flat, dtype=np.int64).reshape(-1, len(COLUMNS))

    def write(self, path: Path) -> None:
        """Write the index file. The same rows give the same bytes."""
        rows = self.to_array()
        columns = np.zeros((len(COLUMNS), len(rows) + 1), dtype="<i8")
        np.cumsum(rows[:, 0], out=columns[0, 1:])
        columns[1:, :-1] = rows[:, 1:].T
        np.save(path, columns, allow_pickle=False)


@dataclass(frozen=True)
class Index:
    """The samples of all shards of a split, in order; int64 arrays of shape (num_members,) unless stated otherwise."""

    first_members: IntArray
    """Number of each shard's first sample, and at the end the number of samples: shape (num_shards + 1,)."""
    shard_starts: IntArray
    """Position in the stream of each shard's first token, and at the end its length: shape (num_shards + 1,)."""
    start: IntArray
    """Position in the stream of each sample's first token, and at the end its length: shape (num_members + 1,)."""
    tokens_at: IntArray
    """Byte offset of the sample's first token in its shard's file."""
    lens_at: IntArray
    """Byte offset of the first of the lengths (int64) of the sample's documents, or parts of documents."""
    num_lens: IntArray
    num_documents: IntArray
    """Documents that end in the sample: num_lens, or one less if the last document continues in the next sample."""

    @staticmethod
    def max_bytes(split: SplitInfo) -> int:
        """Return a limit on the size of the index file of a split: its rows, and the header of numpy."""
        num_members = sum(shard.num_members for shard in split.shards)
        return len(COLUMNS) * 8 * (num_members + 1) + MAX_HEADER_BYTES

    @classmethod
    def open(cls, path: Path, split: SplitInfo) -> "Index":
        """Map the index file of a split into memory. Raises CorpusError if it is missing or is not of this split."""
        try:
            with path.open("rb") as file:
                if file.read(len(FIRST_BYTES)) != FIRST_BYTES:  # numpy reads as much as the length in it says
                    raise ValueError("its first bytes are not those that numpy writes")
            columns = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, TokenError) as error:
            raise CorpusError(f"{path} cannot be read ({error}): {remedy_of(error)}") from error
        counts = np.array([(shard.num_members, shard.num_tokens) for shard in split.shards], dtype=np.int64)
        first_members, shard_starts = np.concatenate([[[0, 0]], np.cumsum(counts.reshape(-1, 2), axis=0)]).T.copy()
        shape = len(COLUMNS), int(first_members[-1]) + 1
        if columns.dtype != np.dtype("<i8") or columns.shape != shape:
            raise CorpusError(
                f"{path} holds {columns.dtype} of shape {columns.shape}, but the manifest needs int64 of {shape}: "
                f"{REMEDY}"
            )
        start, *others = np.asarray(columns)  # a plain array: numpy's memmap class costs time at every slice
        wrong = np.flatnonzero(start[first_members] != shard_starts)
        if len(wrong):
            name = split.shards[max(0, int(wrong[0]) - 1)].name
            raise CorpusError(f"{path} and the manifest disagree on the tokens of {name}: {REMEDY}")
        return cls(first_members, shard_starts, start, *(column[:-1] for column in others))
