"""The windows over which training losses are averaged before curves are compared: the same for runs of every length."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUM_WINDOWS = 50
FIRST_EDGE = 0.02
"""Share of the training tokens before the first window, in which the loss falls too steeply to be compared."""
EDGES: Floats = np.linspace(np.sqrt(FIRST_EDGE), 1.0, NUM_WINDOWS + 1) ** 2
"""Where windows begin and end, as shares of the training tokens: they are shorter where the loss falls faster."""
LEAST_COVERED = 0.5
"""A window of which less was trained with finite losses has no mean."""
ROUNDING = 1e-9


class WindowMeans:
    """The mean training loss in each window of a run, one step after the other.

    A step that reaches over several windows counts in each by its part, so that any number of steps will do. A mean is
    that of a window's own tokens alone: neighbouring windows share no noise.
    """

    def __init__(
        self,
        edges: Iterable[float] = EDGES,
        sums: Iterable[float] = (),
        covered: Iterable[float] = (),
        position: float = 0.0,
    ) -> None:
        """The last three are those of `state`; by default, nothing was trained."""
        self._edges = [float(each) for each in edges]
        self._sums = list(sums) or [0.0] * (len(self._edges) - 1)
        self._covered = list(covered) or [0.0] * (len(self._edges) - 1)
        self._position = position

    def add(self, start: float, end: float, loss: float) -> bool:
        """Add a step on the tokens from `start` to `end`, as shares of all. Returns whether it completes a window.

        A loss that is not finite is left out.
        """
        is_end, is_finite, self._position = False, math.isfinite(loss), end
        for number, (low, high) in enumerate(zip(self._edges, self._edges[1:], strict=False)):
            if low >= end:
                break
            part = min(end, high) - max(start, low)
            if part > 0 and is_finite:
                self._sums[number] += part * loss
                self._covered[number] += part
            is_end |= start < high - ROUNDING and end >= high - ROUNDING
        return is_end

    def means(self) -> Floats:
        """The mean loss of each window (K), NaN for one that is not complete, or of which too little is known."""
        low_K, high_K = np.array(self._edges[:-1]), np.array(self._edges[1:])
        sum_K, covered_K = np.array(self._sums), np.array(self._covered)
        is_known_K = (covered_K >= LEAST_COVERED * (high_K - low_K)) & (high_K <= self._position + ROUNDING)
        return np.where(is_known_K, sum_K / np.where(covered_K > 0, covered_K, 1.0), np.nan)

    def state(self) -> dict[str, Any]:
        """The arguments that make equal means, as plain values that JSON can hold."""
        return {"sums": list(self._sums), "covered": list(self._covered), "position": self._position}


def means_of(losses: Iterable[tuple[int, float]], num_steps: int) -> Floats:
    """The means of a complete run (K), from the numbers and the training losses of its steps."""
    windows = WindowMeans()
    for step, loss in losses:
        windows.add((step - 1) / num_steps, step / num_steps, loss)
    return windows.means()
