"""The entrypoint of a Ray job that runs the tasks of a job array: each in an actor, and again while that helps.

Usage: python -m foretrain.launcher.array.ray_driver FOLDER/job.ray.json, by Ray's Jobs API. Exits with 0 once all
tasks have ended, in whatever way, 85 if it was stopped, 93 if no node is large enough for a task, and 1 if none became
free.
"""

import json
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from foretrain.launcher.array.ending import record_end
from foretrain.launcher.array.ray_tasks import NOT_STARTED, RunningTasks
from foretrain.launcher.array.task import Task, read
from foretrain.launcher.ray import resources
from foretrain.launcher.ray.actor_group import alive_nodes
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.stop_signals import FORWARDED, StopSignals, connect
from foretrain.launcher.ray.submission import Request
from foretrain.launcher.ray.submission import read as read_request
from foretrain.launcher.restart import asks_for_restart, patiently
from foretrain.streams import outlive_readers
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_DONE, EXIT_RESUME

_POLL_S = 0.5
_RETRY_S = 2.0
"""Seconds until the next try: Ray gives tasks to a node that has died until it notices."""
_KILL_S = 10.0
MAX_PLACING = 8
"""Limit on the tasks that wait for room: more would only slow Ray down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tasks of the file's folder."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    outlive_readers(lambda reason: None)  # the disk with Ray's logs may be full
    text = patiently(lambda: Path(path).read_text(encoding="utf-8"))
    stop_signals = connect()
    if stop_signals is None:
        return EXIT_CONFIG
    driver = Driver(read_request(text), json.loads(text)["at_once"])
    try:
        return driver.run(stop_signals)
    finally:
        driver.tasks.drop()


class Driver:
    """Runs the tasks until none is left."""

    def __init__(self, request: Request, at_once: int | None) -> None:
        self._request = request
        self._job = request.job
        self._all = patiently(lambda: read(self._job.folder))
        self._waiting: deque[Task] = deque(self._all)
        self._at_once = at_once or len(self._all)
        self.tasks = RunningTasks(self._job)

    def run(self, stop_signals: StopSignals) -> int:
        """Run all tasks, and return the driver's exit status."""
        asked = resources.asked(self._job).removesuffix(" each")
        say(f"{len(self._all)} tasks, {self._at_once} at once where there is room; one asks for {asked}")
        idle_since_s = time.monotonic()
        while (self._waiting or self.tasks) and not stop_signals.received:
            self._fill()
            for task, status in self.tasks.poll(_POLL_S):
                self._note(task, status)
            if self.tasks.running:
                idle_since_s = time.monotonic()
            elif self.tasks and time.monotonic() > idle_since_s + self._request.wait_s:
                words, status = resources.shortage(self._job, alive_nodes(), self._request.wait_s)
                say(words)
                return status
        return self._stop(stop_signals) if stop_signals.received else EXIT_DONE

    def _fill(self) -> None:
        while self._waiting and len(self.tasks) < self._at_once and len(self.tasks.placing) < MAX_PLACING:
            self.tasks.start(self._waiting.popleft())

    def _note(self, task: Task, status: int) -> None:
        if status == NOT_STARTED:
            self._waiting.appendleft(task)
            time.sleep(_RETRY_S)
            return
        again, words = record_end(
            self._job.folder, task.name, self._request.submission_id, status, self._job.max_starts
        )
        say(f"{task.name}: {words}")
        if again:
            self._waiting.appendleft(task)

    def _stop(self, stop_signals: StopSignals) -> int:
        """Ask the tasks to end, and kill those that take too long."""
        grace_s = self._request.stop_grace_s
        deadline_s = time.monotonic() + grace_s
        self.tasks.drop_placing()
        while self.tasks and time.monotonic() < deadline_s:
            for signum in stop_signals.take():
                say(f"{signum.name}: waits up to {grace_s:g} s for {len(self.tasks)} tasks to end")
                self.tasks.send(FORWARDED[signum])
            self._note_stopped()
        self.tasks.send(signal.SIGKILL)
        deadline_s = time.monotonic() + _KILL_S
        while self.tasks and time.monotonic() < deadline_s:
            self._note_stopped()
        say("stopped")
        return EXIT_RESUME

    def _note_stopped(self) -> None:
        for task, status in self.tasks.poll(_POLL_S):
            if not asks_for_restart(status):
                self._note(task, status)


if __name__ == "__main__":
    sys.exit(main())
