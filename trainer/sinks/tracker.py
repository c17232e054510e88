"""A sink that sends the curve of a run to a tracker. The thread that trains never waits for it.

metrics.jsonl is the record, and the queue: a thread of its own reads the lines that are new, sends them, and remembers
in the run folder how far the tracker is. What it cannot send stays in the file. It is sent when the server is back, or
by the next start of the run.
"""

import logging
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import ClassVar, Protocol

from foretrain.printable import error_message
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.sinks.base import Session, Sink
from foretrain.trainer.sinks.follower import Follower, Point
from foretrain.trainer.sinks.sent import TRACKERS, read_sent, write_sent

MAX_POINTS = 200
"""Points that are sent at once."""
logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A connection to a tracker, of one thread. All methods may wait, and raise any error of the library."""

    def send(self, points: Sequence[Point]) -> None:
        """Send points of the curve. Those that were sent before may be among them."""

    def close(self, is_complete: bool) -> None:
        """End the session. `is_complete`: all steps of the run are done."""


class TrackerSink(Sink):
    """Sends the curve of a run to a tracker; a subclass says how to `connect` to it."""

    name: ClassVar[str]
    """The name in `train.sinks`, and of the file of what is sent."""
    stores_at_once: ClassVar[bool] = True
    """Whether the tracker has what `send` has sent. If not, it has it after `close`."""
    pause_s = 1.0
    """Seconds between two requests, of which each takes all that is new."""
    retry_s, max_retry_s = 5.0, 60.0
    """Seconds to the next attempt after a failure, the first time and at the most."""
    close_s = 20.0
    """Seconds that the end of a run waits for the tracker."""
    has_all = False
    """Whether the tracker has all that metrics.jsonl has, once the sink is closed."""

    @abstractmethod
    def connect(self, session: Session, key: str) -> Tracker:
        """A connection, on the thread that uses it. `key`: names the run, in all its starts."""

    def open(self, session: Session) -> str | None:
        self._session = session
        self._path = session.run_dir / TRACKERS / f"{self.name}.json"
        self._stored = read_sent(self._path)
        self._sent = replace(self._stored)
        self._follower = Follower(session.run_dir / METRICS_FILE)
        self._pending: list[Point] = []
        self._back_to: int | None = session.start_step
        self._lock = threading.Lock()
        self._is_closing, self._news = threading.Event(), threading.Event()
        self._is_failing = False
        self._tracker: Tracker | None = None
        self._last_step = session.start_step
        self._thread = threading.Thread(target=self._work, name=f"sink {self.name}", daemon=True)
        self._thread.start()
        return None

    def step(self, metrics: Mapping[str, float]) -> None:
        self._last_step = int(metrics["step"])
        self._news.set()

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._news.set()

    def rewind(self, step: int) -> None:
        with self._lock:
            self._back_to = step if self._back_to is None else min(step, self._back_to)
        self._last_step = step
        self._news.set()

    def close(self) -> None:
        self._is_closing.set()
        self._news.set()
        self._thread.join(self.close_s)
        if not self.has_all:
            logger.warning(
                "%s lacks the steps after %d: the next start of the run sends them, or "
                "python -m foretrain.trainer.sinks.send %s",
                self.name,
                max(self._stored.train, 0),
                self._session.run_dir,
            )

    def _work(self) -> None:
        retry_s = self.retry_s
        while True:
            is_last = self._is_closing.is_set()
            try:
                self._send_news()
                if is_last:
                    self._finish()
                self._note_success()
                retry_s = self.retry_s
            except Exception as error:  # noqa: BLE001  # a library may raise anything, and the run must not end by it
                self._note_failure(error)
                if not is_last:
                    self._is_closing.wait(retry_s)
                retry_s = min(2 * retry_s, self.max_retry_s)
            if is_last:
                return
            if not self._is_failing:
                self._news.wait()
                self._is_closing.wait(self.pause_s)
                self._news.clear()

    def _send_news(self) -> None:
        if self._tracker is None:
            # A name that is not on the disk is not sent: after a restart, the tracker would have two runs.
            write_sent(self._path, self._stored)
            self._tracker = self.connect(self._session, self._sent.key)
        while True:
            self._go_back()
            points = (point for point in self._follower.read() if self._sent.lacks(point))
            self._pending += islice(points, MAX_POINTS - len(self._pending))
            if not self._pending:
                return
            self._tracker.send(self._pending)
            self._sent.add(self._pending)
            self._pending.clear()
            if self.stores_at_once:
                self._note_stored()

    def _go_back(self) -> None:
        with self._lock:
            step, self._back_to = self._back_to, None
        if step is not None:
            self._sent.go_back(step)
            self._stored.go_back(step)
            self._pending.clear()
            self._follower.restart()

    def _finish(self) -> None:
        assert self._tracker is not None
        self._tracker.close(self._last_step >= self._session.total_steps)
        self._note_stored()
        self.has_all = True

    def _note_stored(self) -> None:
        self._stored = replace(self._sent)
        self._save()

    def _save(self) -> None:
        with suppress(OSError):  # as on a full disk: the next start then sends some points again
            write_sent(self._path, self._stored)

    def _note_failure(self, error: Exception) -> None:
        if not self._is_failing:
            logger.warning(
                "%s gets no metrics now (%s: %s): the run continues, and what %s has is sent later",
                self.name,
                type(error).__name__,
                " ".join(error_message(str(error)).split()),
                METRICS_FILE,
            )
        self._is_failing = True
        if not self.stores_at_once:  # what was sent may be lost with the connection
            self._tracker = None
            self._sent = replace(self._stored)
            self._pending.clear()
            self._follower.restart()

    def _note_success(self) -> None:
        if self._is_failing:
            logger.warning("%s gets metrics again, with those from before", self.name)
        self._is_failing = False
