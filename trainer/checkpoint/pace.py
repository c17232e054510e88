"""How fast a checkpoint is written beside training."""

import time
from threading import Event

SHARE_BESIDE_CPU = 0.08
"""The share of a core that a writer uses while the steps run on the CPU too. They share memory and caches with it: they
were 8 % slower beside a writer at full speed, and 3 % beside one with a fifth of a core."""
SHARE_BESIDE_GPU = 0.2
"""The same while the steps run on a GPU."""


def share_beside(device_type: str) -> float:
    """The share of a core that a writer uses beside steps on a device of this type, such as "cpu"."""
    return SHARE_BESIDE_CPU if device_type == "cpu" else SHARE_BESIDE_GPU


class Pace:
    """Keeps the processor time of a thread near a share of the time that passes, until somebody waits for its work."""

    def __init__(self, share: float) -> None:
        self._share = share
        self.is_awaited = Event()
        """Set as soon as somebody waits."""
        self._since_s: tuple[float, float] | None = None

    def pause(self) -> None:
        """Wait until what the calling thread has computed since the call before is no more than its share.

        Time for which it waited, as for a disk, counts as passed.
        """
        now_s, cpu_s = time.monotonic(), time.thread_time()
        if self._since_s is not None:
            ahead_s = (cpu_s - self._since_s[1]) / self._share - (now_s - self._since_s[0])
            if ahead_s > 0:
                self.is_awaited.wait(ahead_s)
        self._since_s = time.monotonic(), time.thread_time()

    def hurry(self) -> None:
        """End a pause, and make no more."""
        self.is_awaited.set()
