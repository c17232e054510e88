"""The connection of a driver to its cluster, and the signals that ask the driver to stop."""

import os
import signal
from types import FrameType

import ray

from foretrain.launcher.ray.say import say

FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGUSR2: signal.SIGUSR2, signal.SIGINT: signal.SIGTERM}
"""The signal for the ranks, by the signal that the driver got. Ray may stop jobs by SIGINT (RAY_JOB_STOP_SIGNAL)."""


class StopSignals:
    """Catches signals from its creation on. Create it after ray.init, which installs a handler for SIGTERM."""

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


def connect() -> StopSignals | None:
    """Connect this driver to the cluster that runs it, and catch the signals from now on; None: there is no cluster."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:  # ray.init would start a cluster
        say("RAY_ADDRESS is not set: submit this through Ray's Jobs API, and do not start it by hand")
        return None
    ray.init(address=address, log_to_driver=False)
    return StopSignals()
