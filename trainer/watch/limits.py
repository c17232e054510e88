"""When a phase of a run has taken so long that the run hangs, from how long such phases took before. Pure."""

from collections import deque
from collections.abc import Iterable
from statistics import median

STEP = "step"
"""The phase from the end of what follows one step to the end of the next step. Every other phase has irregular
durations: the evaluations, checks and checkpoints after a step, most of which take no time at all."""
LOAD = "load of the checkpoint"
"""The phase before the first step in which a checkpoint is read."""
NUM_FIRST = 5
"""Steps that may be much longer than the others: kernels are compiled, and connections are made."""
NUM_KEPT = 100
FACTOR = 5.0
"""A step is late after this multiple of what steps usually take."""
LONG_FACTOR = 10.0
"""What the floor is multiplied by where no duration is known yet, for a phase that is no step."""
_MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of normally distributed values, times this, is their standard deviation."""


def usual(durations: Iterable[float]) -> float:
    """The median plus three robust standard deviations: few durations exceed it, and few of them do not change it."""
    known = sorted(durations)
    middle = median(known)
    return middle + 3 * _MAD_TO_SIGMA * median(abs(each - middle) for each in known)


class Limits:
    """The seconds after which a phase is late.

    `floor_s`: no phase that takes less is late. `timeout_s`: seconds after which a collective ends with an error; a
    step is late before that, unless steps usually take half as long.
    """

    def __init__(self, floor_s: float, timeout_s: float) -> None:
        self.floor_s, self._cap_s = floor_s, 0.9 * timeout_s
        self._steps: deque[float] = deque(maxlen=NUM_KEPT)
        self._longest_other_s = 0.0

    def add(self, phase: str, duration_s: float) -> None:
        """Take into account how long a phase that has ended took."""
        if phase == STEP:
            self._steps.append(duration_s)
        else:
            self._longest_other_s = max(self._longest_other_s, duration_s)

    def limit_s(self, phase: str) -> float:
        """Seconds after which the phase is late."""
        if phase not in (STEP, LOAD):
            return max(LONG_FACTOR * self.floor_s, FACTOR * self._longest_other_s)
        if len(self._steps) < NUM_FIRST:
            longest = max(self._steps, default=0.0)
            return max(self.floor_s, 2 * longest, min(FACTOR * max(self.floor_s, longest), self._cap_s))
        usual_s = usual(self._steps)
        return max(self.floor_s, 2 * usual_s, min(FACTOR * usual_s, self._cap_s))
