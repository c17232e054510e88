"""Waits for the tasks of a job array, and reports how each ended."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from foretrain.launcher.array.ending import log_path, status_of

SILENCE_S = 600.0
"""Seconds that a cluster may leave questions unanswered: its daemons may be restarting."""


@dataclass(frozen=True)
class Ended:
    """The end of a task that will not be started again."""

    name: str
    status: int | None
    """The exit status, 128 + n for signal n; None: it was cancelled, or vanished."""
    log: Path
    """The file into which it printed."""


def watch(
    folder: Path, names: Collection[str], unfinished: Callable[[], Collection[str]], every_s: float
) -> Iterator[Ended]:
    """Yield each task of `names` as it ends, until all have.

    unfinished: asks the cluster which of them wait or run, and raises ValueError if the cluster does not answer. This
    function raises that error once the cluster has not answered for SILENCE_S seconds.
    """
    waiting = dict.fromkeys(names)
    missing: Collection[str] = ()
    answered_s = time.monotonic()
    while waiting:
        try:
            unknown = {*waiting}.difference(unfinished())
            answered_s = time.monotonic()
        except ValueError:
            unknown = set()
            if time.monotonic() > answered_s + SILENCE_S:
                raise
        # The files are read after the question: a task that the cluster no longer knows has written its end before.
        for name in [*waiting]:
            status = status_of(folder, name)
            # A file that another machine wrote may appear late, so a task is missing only at the second look.
            if status is not None or (name in unknown and name in missing):
                del waiting[name]
                yield Ended(name, status, log_path(folder, name))
        missing = unknown
        if waiting:
            time.sleep(every_s)
