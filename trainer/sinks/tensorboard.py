"""The sink that writes the metrics of a run for TensorBoard."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks.base import Session, Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_DIR = "tensorboard"
RETRY_S = 60.0
"""Seconds between two attempts to write where it was not possible: each makes a file."""
logger = logging.getLogger(__name__)


class TensorBoardSink(Sink):
    """Writes every number as a scalar into the folder `tensorboard` of the run folder.

    While that cannot be written, such as on a full disk, numbers are left out; `metrics.jsonl` has them.
    """

    retry_s = RETRY_S

    def open(self, session: Session) -> None:
        self._folder = str(session.run_dir / TENSORBOARD_DIR)
        self._failed_s: float | None = None
        self._writer: SummaryWriter | None = None
        _QuietWriters.install()
        self._open_after(session.start_step)

    def rewind(self, step: int) -> None:
        self._close_writer()
        self._open_after(step)

    def step(self, metrics: Mapping[str, float]) -> None:
        step = int(metrics["step"])
        self._add(step, {f"train/{name}": value for name, value in metrics.items() if name != "step"})

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._add(step, {f"eval/{name}": value for name, value in loss.as_metrics.items()})

    def close(self) -> None:
        self._close_writer()
        _QuietWriters.uninstall()

    def _close_writer(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._note(error)
        self._writer = None

    def _writer_after(self, step: int) -> "SummaryWriter":
        """A writer of the steps after `step`. Raises OSError if its folder cannot be made."""
        # Imported here because it can be slow (it imports TensorFlow if that is installed), and only rank 0 writes.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._folder, purge_step=step + 1 if step else 0)

    def _open_after(self, step: int) -> None:
        try:
            self._writer = self._writer_after(step)
        except OSError as error:
            self._note(error)

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None and time.monotonic() - (self._failed_s or 0.0) >= self.retry_s:
            self._open_after(step - 1)
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        # All of a step in one event: an event for each would take a millisecond of this thread, since the queue of the
        # thread that writes them is shorter than a step has metrics.
        summary = Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=float(value))
        try:
            file_writer: Any = self._writer.file_writer
            file_writer.add_summary(summary, step)
        except OSError as error:  # an earlier value could not be written: a thread does that
            self._note(error)
            with suppress(OSError):  # the same again
                self._writer.close()
            self._writer = None

    def _note(self, error: OSError) -> None:
        if self._failed_s is None:
            logger.warning(
                "%s cannot be written (%s): it lacks some steps, which metrics.jsonl has", self._folder, error.strerror
            )
        self._failed_s = time.monotonic()


class _QuietWriters:
    """Lets no thread of TensorBoard print a traceback while a sink is open: the next call raises its error again."""

    num_open = 0
    before = threading.excepthook

    @classmethod
    def install(cls) -> None:
        if cls.num_open == 0:
            cls.before, threading.excepthook = threading.excepthook, cls._hook
        cls.num_open += 1

    @classmethod
    def uninstall(cls) -> None:
        cls.num_open -= 1
        if cls.num_open == 0:
            threading.excepthook = cls.before

    @staticmethod
    def _hook(raised: threading.ExceptHookArgs) -> None:
        is_writer = type(raised.thread).__module__.startswith("tensorboard.")
        if not (is_writer and isinstance(raised.exc_value, OSError)):
            _QuietWriters.before(raised)
