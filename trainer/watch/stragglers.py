"""Which ranks work more slowly than their peers, from the time that each rank works in a step. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW_STEPS = 25
"""Steps over whose median a rank is judged, so that a few slow ones do not count."""
NUM_WINDOWS = 3
"""Windows in a row in which a rank is slow before it is named."""
MARGIN = 0.2
"""A rank is slow if it needs more time than the median of its peers by this share."""
LEAST_S = 0.002
"""A rank that needs less than this more is not slow: in steps of milliseconds, that is noise."""


@dataclass(frozen=True)
class Straggler:
    """A slow rank."""

    rank: int
    ratio: float
    """Its time over the median of its peers, above 1."""


class Stragglers:
    """Judges the ranks window by window. `peers`: sets of ranks that do the same work; each rank is in one of them."""

    def __init__(self, peers: Sequence[Sequence[int]]) -> None:
        self._peers = peers
        self._num_slow: dict[int, int] = {}
        """Windows in a row in which a rank was slow."""
        self._worst = 0.0, 0.0
        """Seconds that the slowest rank, if it has been named and is still slow, and its peers work in a step."""

    def judge(self, work_s: Sequence[float]) -> list[Straggler]:
        """The ranks that are named after a window, from the seconds that each rank worked in a step of it.

        A rank is named once, and again only after a window in which it was not slow.
        """
        named = []
        self._worst = 0.0, 0.0
        for ranks in self._peers:
            for rank in ranks:
                others_s = [work_s[other] for other in ranks if other != rank]
                if not others_s:
                    continue
                usual_s = median(others_s)
                is_slow = work_s[rank] > (1 + MARGIN) * usual_s and work_s[rank] > usual_s + LEAST_S
                self._num_slow[rank] = self._num_slow.get(rank, 0) + 1 if is_slow else 0
                if self._num_slow[rank] >= NUM_WINDOWS:
                    self._worst = max(self._worst, (work_s[rank], usual_s), key=lambda pair: pair[0] - pair[1])
                if self._num_slow[rank] == NUM_WINDOWS:
                    named.append(Straggler(rank, work_s[rank] / usual_s))
        return named

    def cost_s(self, step_s: float) -> float:
        """Seconds of a step that the others wait for the slowest rank that is named, if it is as slow as it was."""
        slow_s, usual_s = self._worst
        return min(slow_s - usual_s, step_s * (1 - usual_s / slow_s)) if slow_s else 0.0
