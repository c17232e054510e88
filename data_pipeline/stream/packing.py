"""What sample i of one corpus is: a window of its stream of tokens, or whole documents packed together.

Where attention stays inside documents, an input equal to the EOT begins a segment: it is the beginning-of-text of the
document that follows, so that every token of the stream is a target, and a model learns how documents begin.

Shape letters: B samples of a batch, L positions of a sample; N samples, P pieces of a read.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IGNORE, Batch, IntArray
from foretrain.data_pipeline.stream.best_fit import count_up
from foretrain.data_pipeline.stream.best_fit_plan import Plan, open_plan

Packing = Literal["windows", "documents", "best_fit"]


@dataclass(frozen=True)
class Stretch:
    """Inputs [at, at + count) of a sample are tokens [start, start + count) of the stream."""

    start: int
    count: int
    at: int


class Samples(ABC):
    """The samples of one corpus, i = 0, 1, ...: safe from several threads; a pickled copy opens its files again."""

    has_positions: bool
    """Whether batches must hold positions, as attention stays inside documents."""
    num_samples: int
    shard_starts: IntArray
    """Number of the first sample of each shard, and the end, shape (num_shards + 1,): a sample is of the shard that
    holds its first token, or in best_fit its first target."""

    @abstractmethod
    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch of the kind that `read` fills."""

    @abstractmethod
    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill the given rows of a batch with the given samples, both of shape (N,), and count their padding.

        Raises UnreadableError; the padding is then not counted.
        """

    @abstractmethod
    def stretches(self, sample: int) -> list[Stretch]:
        """Return which tokens of the stream a sample's inputs are."""


def samples_of(
    stream: TokenStream, seq_len: int, packing: Packing, cache_dir: Path | None = None, *, progress: bool = False
) -> Samples:
    """Return the samples of seq_len tokens of a stream.

    A best_fit packing is made once and kept in `cache_dir` (None: beside the corpus); `progress` shows how far that has
    come. Raises CorpusError for a stream too short for one window, and where a packing cannot be made or kept.
    """
    if packing == "best_fit":
        return BestFit(stream, seq_len, cache_dir, progress=progress)
    return Documents(stream, seq_len) if packing == "documents" else Windows(stream, seq_len)


class Windows(Samples):
    """Sample i is the window of tokens from i * L on, its targets are one further on: only the first is no target."""

    has_positions = False

    def __init__(self, stream: TokenStream, seq_len: int) -> None:
        self.num_samples = (stream.num_tokens - 1) // seq_len
        if self.num_samples < 1:
            raise CorpusError(
                f"the {stream.split} split of {stream.folder} has {stream.num_tokens} tokens, and one sample of "
                f"seq_len = {seq_len} needs {seq_len + 1}: shorten seq_len or prepare more text"
            )
        self.shard_starts = np.minimum(-(-stream.shard_starts // seq_len), self.num_samples)
        self._stream, self._seq_len = stream, seq_len

    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch whose tokens and targets are views of the same rows."""
        return Batch.of_rows(num_samples, self._seq_len, with_positions=self.has_positions)

    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill rows of a batch. Raises UnreadableError."""
        self._read_rows(samples, batch, rows)

    def _read_rows(self, samples: IntArray, batch: Batch, rows: IntArray) -> IntArray:
        """Fill rows of a batch, and return the tokens in them, shape (N, L)."""
        assert batch.rows_BC is not None
        is_whole = len(rows) == len(batch.rows_BC) and bool((rows[:-1] < rows[1:]).all())
        tokens_NC = batch.rows_BC if is_whole else np.empty((len(rows), self._seq_len + 1), dtype=np.int64)
        self._stream.read_rows(samples * self._seq_len, tokens_NC)
        if not is_whole:
            batch.rows_BC[rows] = tokens_NC
        return tokens_NC[:, :-1]

    def stretches(self, sample: int) -> list[Stretch]:
        """Return the one window."""
        return [Stretch(sample * self._seq_len, self._seq_len, 0)]


class Documents(Windows):
    """The same windows, with positions that begin again at each EOT."""

    has_positions = True

    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill rows of a batch. Raises UnreadableError."""
        assert batch.positions_BL is not None
        batch.positions_BL[rows] = positions_of(self._read_rows(samples, batch, rows), self._stream.eot_id)


class BestFit(Samples):
    """Whole documents, and the pieces of those longer than L, packed together by best-fit decreasing.

    A piece is a segment: its inputs are the token before it, which is an EOT where a document begins, and all its
    tokens but the last; its targets are its tokens. What is left of a sample is padding: a segment of EOT tokens whose
    targets carry no loss. Each token of the stream is a target once.
    """

    has_positions = True

    def __init__(
        self, stream: TokenStream, seq_len: int, cache_dir: Path | None = None, *, progress: bool = False
    ) -> None:
        self.plan: Plan = open_plan(stream, seq_len, cache_dir, progress=progress)
        self.num_samples = len(self.plan.sample_starts) - 1
        self.shard_starts = self.plan.shard_starts
        self._stream, self._seq_len, self._cache_dir = stream, seq_len, cache_dir
        self._count = np.arange(seq_len)

    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch of arrays of their own: a target need not be the next input."""
        return Batch.empty(num_samples, self._seq_len)

    def __reduce__(self) -> tuple[type["BestFit"], tuple[TokenStream, int, Path | None]]:
        return BestFit, (self._stream, self._seq_len, self._cache_dir)

    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill rows of a batch and count their padding. Raises UnreadableError."""
        assert batch.positions_BL is not None
        first, end = self.plan.sample_starts[samples], self.plan.sample_starts[samples + 1]
        num_pieces = end - first
        starts, lengths = self.plan.pieces[first.repeat(num_pieces) + count_up(num_pieces)].T
        row, after = rows.repeat(num_pieces), np.cumsum(lengths)
        of_sample = np.cumsum(num_pieces)
        used = np.diff(after[of_sample - 1], prepend=0)
        at = after - lengths - (after[of_sample - 1] - used).repeat(num_pieces)

        whole = (lengths == self._seq_len) & (starts > 0)  # most, where documents are longer than samples
        if whole.any():
            tokens_NC = np.empty((int(whole.sum()), self._seq_len + 1), dtype=np.int64)
            self._stream.read_rows(starts[whole] - 1, tokens_NC)
            batch.tokens_BL[row[whole]], batch.targets_BL[row[whole]] = tokens_NC[:, :-1], tokens_NC[:, 1:]
            batch.positions_BL[row[whole]] = self._count
        rest = ~whole
        self._read_pieces(starts[rest], lengths[rest], batch, row[rest], at[rest])
        self._pad(batch, rows, used)

    def stretches(self, sample: int) -> list[Stretch]:
        """Return the inputs of each piece; the EOT before the first document of the stream is none of its tokens."""
        first, end = self.plan.sample_starts[sample : sample + 2].tolist()
        stretches, at = [], 0
        for start, length in self.plan.pieces[first:end].tolist():
            missing = 1 if start == 0 else 0
            if length > missing:
                stretches.append(Stretch(start - 1 + missing, length - missing, at + missing))
            at += length
        return stretches

    def _read_pieces(self, starts: IntArray, lengths: IntArray, batch: Batch, rows: IntArray, at: IntArray) -> None:
        """Fill [at, at + length) of rows with a piece each; all of shape (P,).

        The stream reads rows of one length together, many times faster than one by one. So a piece is read as its first
        and its last `size` tokens, which overlap, `size` being the power of two up to its length: pieces of all lengths
        up to L are a dozen calls, and no token outside a piece is touched.
        """
        assert batch.positions_BL is not None
        sizes = 1 << (np.frexp(lengths)[1].astype(np.int64) - 1)
        for size in np.unique(sizes).tolist():
            here = np.flatnonzero(sizes == size)
            ends = starts[here] + lengths[here]
            tokens = np.empty((2, len(here), size), dtype=np.int64)
            self._stream.read_rows(np.maximum(starts[here] - 1, 0), tokens[0])
            self._stream.read_rows(ends - size, tokens[1])
            places = zip(rows[here].tolist(), at[here].tolist(), lengths[here].tolist(), strict=True)
            for first in np.flatnonzero(starts[here] == 0):  # of the stream: the EOT before it is made up
                tokens[0, first, 1:] = tokens[0, first, :-1].copy()
                tokens[0, first, 0] = self._stream.eot_id
            for head, tail, (row, begin, length) in zip(tokens[0], tokens[1], places, strict=True):
                end = begin + length
                batch.tokens_BL[row, begin : begin + size] = head
                batch.tokens_BL[row, end - size + 1 : end] = tail[:-1]
                batch.targets_BL[row, begin : begin + size - 1] = head[1:]
                batch.targets_BL[row, end - size : end] = tail
                batch.positions_BL[row, begin:end] = self._count[:length]

    def _pad(self, batch: Batch, rows: IntArray, used: IntArray) -> None:
        assert batch.positions_BL is not None
        padded = np.flatnonzero(used < self._seq_len)
        for row, begin in zip(rows[padded].tolist(), used[padded].tolist(), strict=True):
            batch.tokens_BL[row, begin:] = self._stream.eot_id
            batch.targets_BL[row, begin:] = IGNORE
            batch.positions_BL[row, begin:] = self._count[: self._seq_len - begin]
        batch.num_padding += len(used) * self._seq_len - int(used.sum())


def positions_of(tokens_BL: IntArray, eot_id: int) -> IntArray:
    """Return each token's position in its segment, shape (B, L): 0 at every EOT and at the start of each sample."""
    begins_BL = tokens_BL == eot_id
    begins_BL[:, 0] = True
    begins = np.flatnonzero(begins_BL)
    # Positions are sums of steps: of 1, and at the start of a segment back by the positions of the one before it.
    steps_BL = np.ones(tokens_BL.shape, dtype=np.int64)
    steps = steps_BL.reshape(-1)
    steps[begins[1:]] -= np.diff(begins)
    steps[:1] = 0
    return np.cumsum(steps, out=steps).reshape(tokens_BL.shape)
