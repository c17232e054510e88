"""Batches of one data-parallel rank, a pure function of the samples consumed, and a thread that reads ahead."""

import threading
import time
from queue import SimpleQueue

import numpy as np

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.data_pipeline.stream.samples import SampleStream


class Batches:
    """This rank's share of every global batch.

    The samples of a global batch are dealt to the ranks in contiguous shares, rank 0 first, so the shares of any number
    of ranks are together the same samples in the same order. Nothing is remembered from one call to the next. Raises
    ValueError where the batch cannot be dealt evenly.
    """

    def __init__(
        self, stream: SampleStream, global_batch_size: int, dp_rank: int, dp_size: int, prefetch_samples: int = 0
    ) -> None:
        """`prefetch_samples`: how far ahead shards are fetched, where they are not on this machine."""
        if global_batch_size % dp_size:
            raise ValueError(
                f"global_batch_size = {global_batch_size} is not a multiple of dp = {dp_size}: change one of them"
            )
        assert 0 <= dp_rank < dp_size, f"dp_rank = {dp_rank} is outside [0, {dp_size})"
        self.global_batch_size = global_batch_size
        self._stream = stream
        self._prefetch_samples = max(prefetch_samples, global_batch_size)
        self._fetched_from: int | None = None
        self._local_size = global_batch_size // dp_size
        self._first = dp_rank * self._local_size

    def batch(self, samples_consumed: int) -> Batch:
        """This rank's global_batch_size / dp_size samples of the global batch that follows `samples_consumed`."""
        self._fetch_ahead(samples_consumed)
        return self._stream.read(samples_consumed + self._first + np.arange(self._local_size))

    def _fetch_ahead(self, samples_consumed: int) -> None:
        """Name the shards that will be needed, again whenever an eighth of those named before is used up."""
        start = self._fetched_from
        if start is None or not start <= samples_consumed < start + self._prefetch_samples // 8:
            self._fetched_from = samples_consumed
            self._stream.prefetch(samples_consumed, self._prefetch_samples)


class Prefetcher:
    """Iterates over `num_batches` batches from sample `start` on, read ahead in a thread, at most `depth` of them.

    `samples_consumed` counts what was handed out, whatever was read ahead. An exception of the reader is raised where
    its batch would have been handed out. With depth 0 there is no thread. Close it, or use it in a `with`.
    """

    def __init__(self, batches: Batches, start: int, num_batches: int, depth: int) -> None:
        self.samples_consumed = start
        self.wait_s = 0.0
        """Time that the last batch was waited for."""
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
        asked_s = time.perf_counter()
        batch = self._batches.batch(self.samples_consumed) if self._thread is None else self._next_ready()
        self.wait_s = time.perf_counter() - asked_s
        self.samples_consumed += self._batches.global_batch_size
        return batch

    def _next_ready(self) -> Batch:
        result = self._ready.get()
        if isinstance(result, BaseException):
            self.close()
            raise result
        self._free.release()
        return result

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
