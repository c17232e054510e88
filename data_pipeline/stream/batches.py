"""Batches of one data-parallel rank as a function of the samples consumed, and a thread that reads ahead."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue

import numpy as np

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.data_pipeline.stream.left_out import NOTHING, LeftOut
from foretrain.data_pipeline.stream.samples import SampleStream


class Batches:
    """This rank's share of every global batch, by the number of samples consumed before it.

    The samples of a global batch are divided among the ranks in contiguous shares, rank 0 first. So any number of ranks
    together read the same samples in the same order. No call depends on an earlier call.

    Raises ValueError if `dp_size` does not divide `global_batch_size`.
    """

    def __init__(
        self,
        stream: SampleStream,
        global_batch_size: int,
        dp_rank: int,
        dp_size: int,
        prefetch_samples: int = 0,
        left_out: LeftOut = NOTHING,
    ) -> None:
        """`prefetch_samples`: number of samples ahead of need for which remote shards are fetched.

        `left_out`: the global samples that no batch has.
        """
        if global_batch_size < 1 or global_batch_size % dp_size:
            raise ValueError(
                f"global_batch_size = {global_batch_size} is not a multiple of dp = {dp_size}: change one of them"
            )
        if not 0 <= dp_rank < dp_size:
            raise ValueError(f"dp_rank = {dp_rank} is not among the dp_size = {dp_size} ranks, which count from 0")
        self.global_batch_size = global_batch_size
        self._stream, self._left_out = stream, left_out
        self._prefetch_samples = max(prefetch_samples, global_batch_size)
        self._fetched_from: int | None = None
        self._local_size = global_batch_size // dp_size
        self._first = dp_rank * self._local_size

    def batch(self, samples_consumed: int) -> Batch:
        """Return this rank's global_batch_size / dp_size samples of the global batch after `samples_consumed`."""
        self._fetch_ahead(self._left_out.number(samples_consumed))
        return self._stream.read(self._left_out.numbers(samples_consumed + self._first + np.arange(self._local_size)))

    def _fetch_ahead(self, g: int) -> None:
        """Request the shards of the samples from g on, each time an eighth of the last request has been used."""
        start = self._fetched_from
        if start is None or not start <= g < start + self._prefetch_samples // 8:
            self._fetched_from = g
            self._stream.prefetch(g, self._prefetch_samples)


POLL_S = 0.5
STOP_WAIT_S = 60.0
"""Seconds that a process which was asked to stop still waits for its batch."""
CLOSE_WAIT_S = 5.0
"""Seconds that `close` waits for the batch that the thread is reading, which may wait for a server."""


class StopAskedError(RuntimeError):
    """A batch did not arrive in the time in which a process that was asked to stop must end."""


class Prefetcher:
    """An iterator over the batches of one rank; a thread reads at most `depth` of them ahead.

    It begins after `start` samples and ends after `num_batches` (None: never). With depth 0 there is no thread. If
    reading a batch fails, `next` raises the error in place of that batch. `close`, or the end of a `with` block, ends
    the thread at once; without them the thread ends when the iterator is exhausted or no longer referenced.
    """

    def __init__(
        self,
        batches: Batches,
        start: int,
        num_batches: int | None,
        depth: int,
        is_asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_asked_to_stop`: whether this process must end soon, for which `next` looks while it waits for a batch.

        It then raises StopAskedError after STOP_WAIT_S. Without a thread it does not look.
        """
        self.samples_consumed = start
        """Samples of all ranks up to and with the last batch that was returned. Batches read ahead do not count. This
        number is all that a resume needs."""
        self.wait_s = 0.0
        """Seconds that the last call of `next` waited for its batch."""
        self._batches = batches
        size = batches.global_batch_size
        self._end = None if num_batches is None else start + num_batches * size
        self._ready: SimpleQueue[Batch | BaseException] = SimpleQueue()
        self._free = threading.Semaphore(depth)
        self._is_asked_to_stop = is_asked_to_stop
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if depth > 0:
            starts = count(start, size) if self._end is None else range(start, self._end, size)
            # The thread holds no reference to this object, so that an iterator that nobody uses can be deleted.
            arguments = (batches, starts, self._ready, self._free, self._closed)
            self._thread = threading.Thread(target=_read_ahead, args=arguments, name="prefetch", daemon=True)
            self._thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Batch:
        if self._closed.is_set() or (self._end is not None and self.samples_consumed >= self._end):
            raise StopIteration
        asked_s = time.perf_counter()
        batch = self._batches.batch(self.samples_consumed) if self._thread is None else self._next_ready()
        self.wait_s = time.perf_counter() - asked_s
        self.samples_consumed += self._batches.global_batch_size
        return batch

    def _next_ready(self) -> Batch:
        result = self._wait()
        if isinstance(result, BaseException):
            self.close()
            raise result
        self._free.release()
        return result

    def _wait(self) -> Batch | BaseException:
        """The next batch, or the error in its place."""
        asked_s: float | None = None
        while True:
            with suppress(Empty):
                return self._ready.get(timeout=POLL_S)
            if asked_s is None and self._is_asked_to_stop():
                asked_s = time.monotonic()
            if asked_s is not None and time.monotonic() - asked_s > STOP_WAIT_S:
                raise StopAskedError(
                    f"asked to stop, and the batch of the step did not arrive within {STOP_WAIT_S:g} s: the run ends, "
                    "and continues from its last checkpoint"
                )

    def close(self) -> None:
        """Stop the thread, and wait shortly for the batch that it is reading. Iteration ends. May be called twice."""
        self._stop()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)

    def _stop(self) -> None:
        self._closed.set()
        self._free.release()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop()


def _read_ahead(
    batches: Batches,
    starts: Iterable[int],
    ready: "SimpleQueue[Batch | BaseException]",
    free: threading.Semaphore,
    closed: threading.Event,
) -> None:
    for samples_consumed in starts:
        free.acquire()
        if closed.is_set():
            return
        try:
            ready.put(batches.batch(samples_consumed))
        except BaseException as error:  # noqa: BLE001 (raised again in the consumer)
            ready.put(error)
            return
