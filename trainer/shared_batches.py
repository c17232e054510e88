"""The batches of ranks that train on the same samples: one of them reads, and the others receive."""

import pickle
from typing import Any

import torch.distributed as dist

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.data_pipeline.stream.batches import Prefetcher


class SharedBatches:
    """An iterator over the batches of the ranks of `group`, the first of which reads each and sends it to the others.

    The first rank passes its `prefetcher`; if that raises an error in place of a batch, `next` raises it on every rank.
    The others read nothing from storage. All ranks must take the same batches.
    """

    def __init__(self, group: dist.ProcessGroup, prefetcher: Prefetcher | None, start: int, batch_size: int) -> None:
        """`start`: samples of all ranks before the first batch. `batch_size`: samples of a global batch."""
        self.samples_consumed = start
        """Samples of all ranks up to and with the last batch that was returned."""
        self.wait_s = 0.0
        """Seconds that the first rank waited for the last batch."""
        self._group, self._prefetcher, self._batch_size = group, prefetcher, batch_size

    def __iter__(self) -> "SharedBatches":
        return self

    def __next__(self) -> Batch:
        message: list[Any] = [None if self._prefetcher is None else _read(self._prefetcher)]
        dist.broadcast_object_list(message, group=self._group, group_src=0)
        batch: Batch | Exception
        batch, self.wait_s = message[0]
        if isinstance(batch, Exception):
            raise batch
        self.samples_consumed += self._batch_size
        return batch

    def close(self) -> None:
        """Stop reading ahead."""
        if self._prefetcher is not None:
            self._prefetcher.close()


def _read(prefetcher: Prefetcher) -> tuple[Batch | Exception, float]:
    """The next batch, or the error in its place, and the seconds that it was waited for."""
    try:
        return next(prefetcher), prefetcher.wait_s
    except Exception as error:  # noqa: BLE001 (raised again on every rank)
        return _sendable(error), 0.0


def _sendable(error: Exception) -> Exception:
    """The error, or one with its message: if it could not be sent, the other ranks would wait for it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (whatever its class does when it is copied)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
