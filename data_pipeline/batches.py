"""Batches of one data-parallel rank: a pure function of the number of samples consumed, and a thread that reads ahead.

Shape letters: B samples of this rank, L positions of a sample.
"""

import threading
from queue import SimpleQueue

import numpy as np

from data_pipeline.order import IntArray, sample_at
from data_pipeline.shards import TokenStream

IGNORE = -100
"""The target that carries no loss."""

Batch = tuple[IntArray, IntArray]
"""(tokens_BL, targets_BL), int64."""


class Batches:
    """This rank's share of every global batch.

    The samples of a global batch are dealt to the ranks in contiguous shares, rank 0 first, so the shares of any number
    of ranks are together the same samples in the same order. Nothing is remembered from one call to the next. Raises
    ValueError where the batch cannot be dealt evenly, or the stream is shorter than one sample.
    """

    def __init__(
        self, stream: TokenStream, seq_len: int, global_batch_size: int, dp_rank: int, dp_size: int, seed: int
    ) -> None:
        if global_batch_size % dp_size:
            raise ValueError(
                f"global_batch_size = {global_batch_size} is not a multiple of dp = {dp_size}: change one of them"
            )
        assert 0 <= dp_rank < dp_size, f"dp_rank = {dp_rank} is outside [0, {dp_size})"
        self.global_batch_size = global_batch_size
        self._stream, self._seq_len, self._seed = stream, seq_len, seed
        self._num_samples = stream.num_samples(seq_len)
        self._local_size = global_batch_size // dp_size
        self._first = dp_rank * self._local_size

    def batch(self, samples_consumed: int) -> Batch:
        """Return this rank's tokens and targets of the global batch that follows `samples_consumed` samples.

        Both have shape (global_batch_size / dp_size, seq_len); the targets are the tokens one position further on.
        """
        g = samples_consumed + self._first + np.arange(self._local_size)
        _, windows = sample_at(g, self._num_samples, self._seed)
        return _shifted(_read_windows(self._stream, windows, self._seq_len))


class Prefetcher:
    """Iterates over `num_batches` batches from sample `start` on, read ahead in a thread, at most `depth` of them.

    `samples_consumed` counts what was handed out, whatever was read ahead. An exception of the reader is raised where
    its batch would have been handed out. With depth 0 there is no thread. Close it, or use it in a `with`.
    """

    def __init__(self, batches: Batches, start: int, num_batches: int, depth: int) -> None:
        self.samples_consumed = start
        self._batches = batches
        self._end = start + num_batches * batches.global_batch_size
        self._ready: SimpleQueue[Batch | BaseException] = SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._closed = False
        self._thread: threading.Thread | None = None
        if depth > 0:
            self._thread = threading.Thread(target=self._read_ahead, args=(start,), name="prefetch", daemon=True)
            self._thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Batch:
        if self._closed or self.samples_consumed >= self._end:
            raise StopIteration
        if self._thread is None:
            batch = self._batches.batch(self.samples_consumed)
        else:
            result = self._ready.get()
            if isinstance(result, BaseException):
                self.close()
                raise result
            batch = result
            self._free.release()
        self.samples_consumed += self._batches.global_batch_size
        return batch

    def close(self) -> None:
        """Stop the thread and wait for the batch it is reading; further iteration ends. May be called twice."""
        self._closed = True
        self._free.release()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_ahead(self, start: int) -> None:
        for samples in range(start, self._end, self._batches.global_batch_size):
            self._free.acquire()
            if self._closed:
                return
            try:
                self._ready.put(self._batches.batch(samples))
            except BaseException as error:  # noqa: BLE001 (raised again in the consumer)
                self._ready.put(error)
                return


def held_out(stream: TokenStream, seq_len: int, num_samples: int) -> Batch:
    """Return the first `num_samples` windows of a stream in order, or as many as it has whole.

    A stream shorter than one window is one sample, padded with the EOT token and targets of IGNORE.
    """
    missing = seq_len + 1 - stream.num_tokens
    if missing <= 0:
        first_windows = np.arange(min(num_samples, stream.num_samples(seq_len)))
        return _shifted(_read_windows(stream, first_windows, seq_len))
    padded = np.pad(stream.read(0, stream.num_tokens).astype(np.int64), (0, missing), constant_values=stream.eot_id)
    tokens_BL, targets_BL = _shifted(padded[None, :])
    targets_BL[:, stream.num_tokens - 1 :] = IGNORE
    return tokens_BL[:num_samples], targets_BL[:num_samples]


def _read_windows(stream: TokenStream, windows: IntArray, seq_len: int) -> IntArray:
    """Return the windows as int64, shape (number of windows, seq_len + 1)."""
    rows = np.empty((len(windows), seq_len + 1), dtype=np.int64)
    for row, window in zip(rows, windows, strict=True):
        row[:] = stream.window(int(window), seq_len)
    return rows


def _shifted(rows: IntArray) -> Batch:
    """Return all but the last and all but the first token of each row, in memory of their own."""
    return rows[:, :-1].copy(), rows[:, 1:].copy()
