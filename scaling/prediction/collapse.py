"""Which runs of a ladder leave the common curve: a fault of one run shows without a larger run. Pure.

Each run is compared with the others alone, and judged as a run is against its prediction: see
`trainer/prediction/course.py`. The limits are such that in a share FALSE_ALARM of sound ladders any run exceeds them.
The worst run is taken out and the rest is judged again, until none is left: a fault of one run does not accuse the
others.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.prediction.expected import Expected, expected
from foretrain.scaling.prediction.limits import FALSE_ALARM, enlarged, limits
from foretrain.scaling.prediction.shape import Curves
from foretrain.trainer.prediction.course import Noise, averages
from foretrain.trainer.prediction.windows import EDGES, NUM_WINDOWS

LEAST_OTHERS = 4
"""With fewer other runs, a run is not judged."""

SMALL_SAMPLE = 1.5
"""Limits are larger by this, over the runs beyond the parameters of the trend: the correlations too are those of few
runs. By simulation of ladders of 5 to 15 runs."""


@dataclass(frozen=True)
class Leaving:
    """A run whose curve is not the common one."""

    name: str
    start: float
    """Share of its tokens from which its loss is another one, relative to before; 0: it is from the beginning."""
    change: float
    """Factor by which its loss differs from there on, minus 1."""
    excess: float
    """The tests' average over its limit, as far as it got."""


def leaving(curves: Curves) -> list[Leaving]:
    """The runs that leave the common curve, the worst first."""
    rest = list(range(len(curves.log_compute_R)))
    found: list[tuple[float, int]] = []
    while len(rest) > LEAST_OTHERS and len(found) < len(curves.log_compute_R) / 2:
        judged = [(_excess(curves, row, [other for other in rest if other != row], len(rest)), row) for row in rest]
        excess, worst = max(judged)
        if excess < 1.0:
            break
        rest.remove(worst)
        found.append((excess, worst))
    return [_described(curves, row, rest, excess) for excess, row in found]


def _against(curves: Curves, row: int, others: list[int]) -> tuple[Floats, Expected] | None:
    """How far a run is from what the others let expect (K), and that; None if they let expect nothing of its size."""
    found = expected(curves.log_compute_R[others], curves.ratios[others], curves.log_compute_R[row])
    return None if found is None else (curves.ratios[row] - found.value_K, found)


def _excess(curves: Curves, row: int, others: list[int], count: int) -> float:
    against = _against(curves, row, others)
    if against is None:
        return 0.0
    off_K, found = against
    freedom = max(1, int(found.freedom))
    # Limits are simulated once for each of a few correlations.
    constant, slow = round(found.noise.constant, 1), round(found.noise.slow, 1)
    noise = replace(found.noise, constant=constant, slow=min(slow, 0.98 - constant))
    allowed = _limits(noise.constant, noise.slow, noise.decay, freedom, found.run_freedom, count)
    both = averages(enlarged(noise, freedom).covariance(), off_K[None])
    return max(float(np.abs(both.level_BK).max()) / allowed[0], float(np.abs(both.change_BK).max()) / allowed[1])


@lru_cache(maxsize=256)
def _limits(
    constant: float, slow: float, decay: float, freedom: int, run_freedom: int, count: int
) -> tuple[float, float]:
    found = limits(Noise(0.0, [1.0] * NUM_WINDOWS, constant, slow, decay), freedom, np.inf, FALSE_ALARM / count)
    factor = 1.0 + SMALL_SAMPLE / run_freedom
    return factor * found["level"], factor * found["change"]


def _described(curves: Curves, row: int, others: list[int], excess: float) -> Leaving:
    """Where a run leaves the common curve: the two levels of its distance that fit it best.

    A curve that is divided by its own end is wrong before a fault that changes the end, and not after it. So the change
    between the two is reported, as that of what comes later.
    """
    against = _against(curves, row, others)
    assert against is not None, "only a run that is judged leaves the curve"
    off_K, weight_K = against[0], 1.0 / np.array(against[1].noise.std) ** 2
    errors = []
    for start in range(1, NUM_WINDOWS - 1):
        levels = [_mean(off_K[part], weight_K[part]) for part in (slice(start), slice(start, None))]
        error = sum(
            float(weight_K[part] @ (off_K[part] - level) ** 2)
            for part, level in zip((slice(start), slice(start, None)), levels, strict=True)
        )
        errors.append((error, start, levels[1] - levels[0]))
    _, start, change = min(errors)
    level = _mean(off_K, weight_K)
    if abs(change) < abs(level):
        return Leaving(curves.names[row], 0.0, float(np.expm1(level)), excess)
    return Leaving(curves.names[row], float(EDGES[start]), float(np.expm1(change)), excess)


def _mean(values: Floats, weights: Floats) -> float:
    return float(weights @ values / weights.sum())
