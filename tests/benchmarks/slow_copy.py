"""A planted fault for the benchmark of saves: a copy of the state that takes a second."""

import time

from benchmarks.checkpoint.contestants import Ours


class SlowCopy(Ours):
    """foretrain, but training waits."""

    def start(self, number: int) -> None:
        super().start(number)
        time.sleep(1.0)
