"""Whether a number is far above those before it: a robust statistic of a sliding window. Pure arithmetic.

A number x is a spike if x > median + k * sigma, where the median is that of the window. sigma is the larger one of two
robust estimates of the standard deviation, which agree for normal noise: 1.4826 * MAD, the median absolute deviation
(Iglewicz and Hoaglin, 1993), and (upper decile - median) / 1.2816, for noise with a heavier tail upwards. A tenth of
the values in the window may be spikes without a large change of either.

With normal noise, (x - median) / (1.4826 * MAD) has about the distribution t of Student with 0.37 * (n - 1) degrees of
freedom, where n values are in the window and 0.37 is the efficiency of the MAD (Rousseeuw and Croux, 1993). With n = 64
and k = 10 a sound value is taken for a spike at most once in three billion. A trend downwards, as that of a loss, lifts
the median and widens sigma: both make it rarer.

The logarithm of a gradient norm has a heavy tail upwards where batches are small: in 30 sound runs of a small model
with batches of 32, 128 and 512 tokens it was up to 13 sigma above its median, and the loss up to 5. So it is judged by
2 * k.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

SIGMA_OF_MAD = 1.4826
"""1 / the 75 % quantile of the standard normal distribution."""
DECILE_OF_NORMAL = 1.2816
"""The 90 % quantile of the standard normal distribution."""
LOG_NORM_FACTOR = 2.0
"""Factor of k for the logarithm of a gradient norm."""
WINDOW = 64
"""Values in the window. Nothing is judged until it is full."""
LOSS_FLOOR = 0.005
"""Least sigma of the loss, as a share of its median."""
LOG_NORM_FLOOR = 0.05
"""Least sigma of the logarithm of the gradient norm: 5 % of the norm."""


class Baseline:
    """The last values of a quantity, and the level above which the next one is a spike."""

    def __init__(self, values: Iterable[float] = (), *, floor: float = 0.0, relative_floor: float = 0.0) -> None:
        """`floor` is the least sigma, and `relative_floor` the least sigma as a share of the median."""
        self._values = deque(values, maxlen=WINDOW)
        self._floor, self._relative_floor = floor, relative_floor

    @property
    def values(self) -> list[float]:
        """The window, oldest value first."""
        return list(self._values)

    def add(self, value: float) -> None:
        """Add a value, which must be finite; the oldest one leaves a full window."""
        self._values.append(value)

    def limit(self, k: float) -> float:
        """median + k * sigma; infinite until the window is full."""
        if len(self._values) < WINDOW:
            return math.inf
        ordered = sorted(self._values)
        center, decile = _median(ordered), ordered[int(0.9 * WINDOW)]
        by_mad = SIGMA_OF_MAD * _median(sorted([abs(value - center) for value in ordered]))
        by_decile = (decile - center) / DECILE_OF_NORMAL
        return center + k * max(by_mad, by_decile, self._floor, self._relative_floor * abs(center))


class SpikeStatistic:
    """The loss and the logarithm of the gradient norm of the last steps whose updates were applied.

    The logarithm makes the noise of the norm less skewed.
    """

    def __init__(self, losses: Iterable[float] = (), log_norms: Iterable[float] = ()) -> None:
        self._losses = Baseline(losses, relative_floor=LOSS_FLOOR)
        self._log_norms = Baseline(log_norms, floor=LOG_NORM_FLOOR)

    def add(self, loss: float, grad_norm: float) -> None:
        """Add a step; both numbers must be finite."""
        self._losses.add(loss)
        self._log_norms.add(_log(grad_norm))

    def spike(self, loss: float, grad_norm: float, k: float) -> str:
        """What is too high, with its limit, as a text; "" for a sound step."""
        found = []
        loss_limit, log_norm_limit = self._losses.limit(k), self._log_norms.limit(LOG_NORM_FACTOR * k)
        if loss > loss_limit:
            found.append(f"loss {loss:.4f} is above {loss_limit:.4f}")
        if _log(grad_norm) > log_norm_limit:
            found.append(f"gradient norm {grad_norm:.4g} is above {math.exp(log_norm_limit):.4g}")
        return " and ".join(found)

    def state(self) -> dict[str, list[float]]:
        """The arguments that make an equal statistic, as plain values that JSON can hold."""
        return {"losses": self._losses.values, "log_norms": self._log_norms.values}


def _median(ordered: Sequence[float]) -> float:
    """The median of a full window, as `statistics.median` computes it: between the two values in the middle."""
    return (ordered[WINDOW // 2 - 1] + ordered[WINDOW // 2]) / 2


def _log(grad_norm: float) -> float:
    return math.log(max(grad_norm, 1e-300))  # a model that learns nothing has a norm of 0
