"""The signals that ask the driver to stop."""

import signal
from types import FrameType

FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGUSR2: signal.SIGUSR2, signal.SIGINT: signal.SIGTERM}
"""What the ranks get for what the driver got. Where RAY_JOB_STOP_SIGNAL says so, Ray stops jobs by SIGINT."""


class StopSignals:
    """Catches signals once it is made; to be made after ray.init, which takes SIGTERM for itself."""

    def __init__(self) -> None:
        self.received = False
        self._new: list[signal.Signals] = []
        for signum in FORWARDED:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = True
        self._new.append(signal.Signals(signum))

    def take(self) -> list[signal.Signals]:
        """The signals since the last call."""
        new, self._new = self._new, []
        return new
