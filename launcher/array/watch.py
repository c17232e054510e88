"""Waits for the tasks of a job array, and tells how each ended."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from foretrain.launcher.array.ending import log_path, status_of

SILENCE_S = 600.0
"""So long a cluster that does not answer is asked again: its daemons may be starting again."""


@dataclass(frozen=True)
class Ended:
    """How a task ended for good."""

    name: str
    status: int | None
    """Its exit status, 128 + n for signal n; None: it was cancelled, or is gone without a word."""
    log: Path
    """What it printed."""


def watch(
    folder: Path, names: Collection[str], unfinished: Callable[[], Collection[str]], every_s: float
) -> Iterator[Ended]:
    """Yield each task of `names` as it ends, until all have.

    unfinished: asks the cluster which of them wait or run; it raises ValueError where that does not answer. That is
    raised here where it has not answered for SILENCE_S.
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
        # Only now: what the cluster no longer knew has told of its end before.
        for name in [*waiting]:
            status = status_of(folder, name)
            # What another machine has written may be seen later.
            if status is not None or (name in unknown and name in missing):
                del waiting[name]
                yield Ended(name, status, log_path(folder, name))
        missing = unknown
        if waiting:
            time.sleep(every_s)
