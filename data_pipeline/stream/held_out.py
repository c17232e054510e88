"""The held-out samples of an evaluation: windows spread evenly over the held-out stream, always the same ones.

The stream is divided into windows of `seq_len` targets, one after the other. Which of them are samples follows from the
numbers of windows and samples alone, so it does not depend on ranks, batches or seeds. The first windows would stand
for the first documents only, and a corpus often has an order.

Shape letters: N samples, B samples of a batch, L positions of a sample, C = L + 1 tokens of a row.
"""

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.stream.batch import IGNORE, Batch, IntArray
from foretrain.data_pipeline.stream.packing import positions_of

NO_WINDOW = -1
"""In place of the number of a window: a sample that carries no loss, which fills up a batch."""


def num_windows(stream: TokenStream, seq_len: int) -> int:
    """The number of windows of a stream of at least two tokens; a stream shorter than one window is one."""
    return max(1, (stream.num_tokens - 1) // seq_len)


def spread(num_samples: int, windows: int) -> IntArray:
    """The numbers of the windows that `num_samples` samples are: shape (N,), ascending, each once.

    All windows, `windows` in number, are divided into equal parts, and the window in the middle of each is taken. If
    there are fewer windows than samples, all are taken.
    """
    num_samples = min(num_samples, windows)
    return (2 * np.arange(num_samples, dtype=np.int64) + 1) * windows // (2 * max(1, num_samples))


def documents_of(stream: TokenStream, seq_len: int, windows_N: IntArray) -> IntArray:
    """The position in the stream at which the document begins that holds the first token of each window, shape (N,).

    The part of a document in another shard than its beginning counts as a document. Reads the lengths of the documents
    of every shard with a window. Raises UnreadableError.
    """
    starts_N = windows_N * seq_len
    shard_N = np.searchsorted(stream.shard_starts, starts_N, side="right") - 1
    documents_N = np.empty_like(starts_N)
    for shard in np.unique(shard_N).tolist():
        begins = stream.document_starts(shard)
        here = np.flatnonzero(shard_N == shard)
        begins = np.r_[stream.shard_starts[shard], begins]
        documents_N[here] = begins[np.searchsorted(begins, starts_N[here], side="right") - 1]
    return documents_N


class HeldOutSamples:
    """Windows of a stream, kept in memory in the type of their tokens. A window NO_WINDOW carries no loss."""

    def __init__(self, stream: TokenStream, seq_len: int, windows_N: IntArray, *, with_positions: bool = False) -> None:
        """Read the windows with these numbers. Raises UnreadableError. `with_positions`: attention stays inside
        documents."""
        self._seq_len, self._eot_id, self._with_positions = seq_len, stream.eot_id, with_positions
        self._windows_N = windows_N
        self._num_targets = min(seq_len, stream.num_tokens - 1)
        self._rows_NC: npt.NDArray[np.generic] = np.full((len(windows_N), seq_len + 1), stream.eot_id, stream.dtype)
        is_window_N = windows_N != NO_WINDOW
        rows = np.empty((int(is_window_N.sum()), self._num_targets + 1), dtype=stream.dtype)
        stream.read_rows(windows_N[is_window_N] * seq_len, rows)
        self._rows_NC[is_window_N, : self._num_targets + 1] = rows

    def batch(self, samples: slice) -> Batch:
        """The batch of some samples. A window that the stream does not fill ends with EOT tokens without loss."""
        rows_BC, windows_B = self._rows_NC[samples].astype(np.int64), self._windows_N[samples]
        batch = Batch(rows_BC[:, :-1].copy(), rows_BC[:, 1:].copy())
        batch.targets_BL[:, self._num_targets :] = IGNORE
        batch.targets_BL[windows_B == NO_WINDOW] = IGNORE
        batch.num_padding = (self._seq_len - self._num_targets) * int((windows_B != NO_WINDOW).sum())
        batch.samples_B = np.maximum(windows_B, 0)
        if self._with_positions:
            batch.positions_BL = positions_of(batch.tokens_BL, self._eot_id)
        return batch


def held_out(stream: TokenStream, seq_len: int, num_samples: int, *, with_positions: bool = False) -> Batch:
    """All samples of an evaluation with `num_samples` samples, or as many as the stream has windows."""
    windows_N = spread(num_samples, num_windows(stream, seq_len))
    return HeldOutSamples(stream, seq_len, windows_N, with_positions=with_positions).batch(slice(None))
