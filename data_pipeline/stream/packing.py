"""The samples of one corpus: windows of its stream of tokens, or complete documents packed together.

If attention stays inside documents, an input equal to the EOT begins a segment. It stands for the beginning of the
document that follows, so that every token of the stream is a target, and a model learns how documents begin.

Shape letters: B samples of a batch, L positions of a sample; N samples, P pieces of a read; D documents.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IGNORE, Batch, IntArray
from foretrain.data_pipeline.stream.best_fit import count_up
from foretrain.data_pipeline.stream.best_fit_plan import open_plan

Packing = Literal["windows", "documents", "best_fit"]


@dataclass(frozen=True)
class Span:
    """Inputs [at, at + count) of a sample are tokens [start, start + count) of the stream."""

    start: int
    count: int
    at: int


class Samples(ABC):
    """The samples of one corpus, by number from 0.

    Several threads may read them. A pickled copy opens its files again.
    """

    has_positions: bool
    """Whether batches hold positions, because attention stays inside documents."""
    has_padding: bool
    """Whether a sample may hold positions without a token, whose targets carry no loss."""
    num_samples: int
    num_targets: int
    """Tokens of the stream that are a target of a sample."""
    shard_starts: IntArray
    """Number of the first sample of each shard, and the end, shape (num_shards + 1,). A sample belongs to the shard
    that holds its first token; in best_fit, to the shard that holds its first target."""

    @abstractmethod
    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch that `read` can fill."""

    @abstractmethod
    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill `rows` of a batch with `samples`, both of shape (N,), and add their padding to `batch.num_padding`.

        Raises UnreadableError if a sample cannot be read; no padding is added then.
        """

    @abstractmethod
    def spans(self, sample: int) -> list[Span]:
        """Return which tokens of the stream the inputs of a sample are."""

    @abstractmethod
    def is_truncated(self, starts: IntArray, ends: IntArray) -> npt.NDArray[np.bool_]:
        """Return which of the documents [start, end) of the stream are not completely in one sample, shape (D,)."""


def open_samples(
    stream: TokenStream, seq_len: int, packing: Packing, cache_dir: Path | None = None, *, progress: bool = False
) -> Samples:
    """Return the samples of seq_len tokens of a stream.

    The plan of a best_fit packing is made once and kept in `cache_dir` (None: in the corpus's folder); `progress` shows
    how far the packing is. Raises CorpusError if the stream is too short for one window, or if a plan cannot be made or
    written.
    """
    if packing == "best_fit":
        return BestFitSamples(stream, seq_len, cache_dir, progress=progress)
    return DocumentSamples(stream, seq_len) if packing == "documents" else WindowSamples(stream, seq_len)


class WindowSamples(Samples):
    """Sample i is the window of L tokens from position i * L on. Its targets are the tokens one position later."""

    has_positions, has_padding = False, False

    def __init__(self, stream: TokenStream, seq_len: int) -> None:
        self.num_samples = (stream.num_tokens - 1) // seq_len
        if self.num_samples < 1:
            raise CorpusError(
                f"the {stream.split} split of {stream.folder} has {stream.num_tokens} tokens, and one sample of "
                f"seq_len = {seq_len} needs {seq_len + 1}: shorten seq_len or prepare more text"
            )
        self.num_targets = self.num_samples * seq_len
        self.shard_starts = np.minimum(-(-stream.shard_starts // seq_len), self.num_samples)
        self._stream, self._seq_len = stream, seq_len

    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch whose tokens and targets are views of the same rows."""
        return Batch.of_rows(num_samples, self._seq_len, with_positions=self.has_positions)

    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill rows of a batch. Raises UnreadableError."""
        self._read_rows(samples, batch, rows)

    def _read_rows(self, samples: IntArray, batch: Batch, rows: IntArray) -> IntArray:
        """Fill rows of a batch, and return their tokens, shape (N, L)."""
        assert batch.rows_BC is not None
        fills_batch = len(rows) == len(batch.rows_BC) and bool((rows[:-1] < rows[1:]).all())
        tokens_NC = batch.rows_BC if fills_batch else np.empty((len(rows), self._seq_len + 1), dtype=np.int64)
        self._stream.read_rows(samples * self._seq_len, tokens_NC)
        if not fills_batch:
            batch.rows_BC[rows] = tokens_NC
        return tokens_NC[:, :-1]

    def spans(self, sample: int) -> list[Span]:
        """Return the one window."""
        return [Span(sample * self._seq_len, self._seq_len, 0)]

    def is_truncated(self, starts: IntArray, ends: IntArray) -> npt.NDArray[np.bool_]:
        """Return which documents are cut. Their inputs begin at the EOT before them, and end before their own EOT."""
        first, last = np.maximum(starts - 1, 0) // self._seq_len, np.maximum(ends - 2, 0) // self._seq_len
        return (first != last) | (last >= self.num_samples)


class DocumentSamples(WindowSamples):
    """The same windows, with positions that restart at each EOT."""

    has_positions = True

    def read(self, samples: IntArray, batch: Batch, rows: IntArray) -> None:
        """Fill rows of a batch. Raises UnreadableError."""
        assert batch.positions_BL is not None
        batch.positions_BL[rows] = positions_of(self._read_rows(samples, batch, rows), self._stream.eot_id)


class BestFitSamples(Samples):
    """Complete documents, and the pieces of documents longer than L, packed together by best-fit decreasing.

    A piece is a segment. Its targets are its tokens; its inputs are the token before it (an EOT if the piece begins a
    document) and all its tokens but the last. The rest of a sample is padding: a segment of EOT tokens whose targets
    carry no loss. Each token of the stream is a target once.
    """

    has_positions, has_padding = True, True

    def __init__(
        self, stream: TokenStream, seq_len: int, cache_dir: Path | None = None, *, progress: bool = False
    ) -> None:
        self.plan = open_plan(stream, seq_len, cache_dir, progress=progress)
        self.num_samples = len(self.plan.sample_starts) - 1
        self.num_targets = stream.num_tokens
        self.shard_starts = self.plan.shard_starts
        self._stream, self._seq_len, self._cache_dir = stream, seq_len, cache_dir
        self._count = np.arange(seq_len)

    def new_batch(self, num_samples: int) -> Batch:
        """Return a batch whose targets are not a view of its tokens, because a target need not be the next input."""
        return Batch(*np.empty((3, num_samples, self._seq_len), dtype=np.int64))

    def __reduce__(self) -> tuple[type["BestFitSamples"], tuple[TokenStream, int, Path | None]]:
        return BestFitSamples, (self._stream, self._seq_len, self._cache_dir)

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

        full = (lengths == self._seq_len) & (starts > 0)  # most pieces, if documents are longer than samples
        if full.any():
            tokens_NC = np.empty((int(full.sum()), self._seq_len + 1), dtype=np.int64)
            self._stream.read_rows(starts[full] - 1, tokens_NC)
            batch.tokens_BL[row[full]], batch.targets_BL[row[full]] = tokens_NC[:, :-1], tokens_NC[:, 1:]
            batch.positions_BL[row[full]] = self._count
        rest = ~full
        self._read_pieces(starts[rest], lengths[rest], batch, row[rest], at[rest])
        self._pad(batch, rows, used)

    def spans(self, sample: int) -> list[Span]:
        """Return the inputs of each piece. The EOT before the stream's first document is no token of the stream."""
        first, end = self.plan.sample_starts[sample : sample + 2].tolist()
        spans, at = [], 0
        for start, length in self.plan.pieces[first:end].tolist():
            missing = 1 if start == 0 else 0
            if length > missing:
                spans.append(Span(start - 1 + missing, length - missing, at + missing))
            at += length
        return spans

    def is_truncated(self, starts: IntArray, ends: IntArray) -> npt.NDArray[np.bool_]:
        """Return which documents are cut: those longer than a sample."""
        return ends - starts > self._seq_len

    def _read_pieces(self, starts: IntArray, lengths: IntArray, batch: Batch, rows: IntArray, at: IntArray) -> None:
        """Fill positions [at, at + length) of each row with one piece; all arguments have shape (P,).

        The stream reads rows of one length together, many times faster than one by one. So a piece is read as its first
        `size` and its last `size` tokens, which overlap; `size` is the largest power of two up to the piece's length.
        Pieces of all lengths up to L then take a dozen calls, and no token outside a piece is read.
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
            for first in np.flatnonzero(starts[here] == 0):  # no EOT is before the first token of the stream
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
    # A position is a sum of steps. A step is 1, but the start of a segment goes back to 0.
    steps_BL = np.ones(tokens_BL.shape, dtype=np.int64)
    steps = steps_BL.reshape(-1)
    steps[begins[1:]] -= np.diff(begins)
    steps[:1] = 0
    return np.cumsum(steps, out=steps).reshape(tokens_BL.shape)
