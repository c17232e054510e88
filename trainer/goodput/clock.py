"""The clock of one process: at each moment it counts the time for exactly one cause."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from foretrain.trainer.goodput.causes import Cause


class Clock:
    """Divides the time since it was made among causes. What it has counted adds up to that time."""

    def __init__(self, cause: Cause, now_s: Callable[[], float] = time.monotonic) -> None:
        """`cause`: what the time is counted for until `enter` changes it. `now_s`: seconds that never step back."""
        self.cause: Cause = cause
        self._now_s = now_s
        self._since_s = now_s()
        self._spent_s: dict[Cause, float] = {}

    def enter(self, cause: Cause) -> None:
        """Count the time from now on for `cause`."""
        self._count()
        self.cause = cause

    @contextmanager
    def within(self, cause: Cause | None) -> Iterator[None]:
        """Count the time of a block for `cause`, and that after it as before; None: the block changes nothing."""
        if cause is None:
            yield
            return
        before = self.cause
        self.enter(cause)
        try:
            yield
        finally:
            self.enter(before)

    def move(self, seconds: float, source: Cause, target: Cause) -> None:
        """Count up to `seconds` of what was counted for `source` for `target` instead."""
        self._count()
        moved_s = min(seconds, self._spent_s.get(source, 0.0))
        if moved_s > 0:
            self._spent_s[source] -= moved_s
            self._spent_s[target] = self._spent_s.get(target, 0.0) + moved_s

    def read(self) -> dict[Cause, float]:
        """Seconds up to now, since the clock was made or forgot, by cause."""
        self._count()
        return dict(self._spent_s)

    def forget(self) -> None:
        """Begin again with nothing, from the last reading on."""
        self._spent_s = {}

    def _count(self) -> None:
        now_s = self._now_s()
        self._spent_s[self.cause] = self._spent_s.get(self.cause, 0.0) + now_s - self._since_s
        self._since_s = now_s
