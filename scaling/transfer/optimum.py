"""The best learning rate of one proxy: the vertex of a parabola in log2 LR, and how well it is known. Pure.

The parabola is that of least squares through the points within an octave of the best one. With a rate in every octave
those are the best and its two neighbours, and the parabola goes through them. With finer rates more points matter.
Simulated with four rates in an octave, two seeds and a noise of 0.01 nats, in a valley 0.02 nats higher an octave below
its bottom and 0.03 above, 0.08 and 0.16 at two: the vertex is off by 0.11 octave (root of the mean square) with one
octave, by 0.27 with three points, and by 0.20 with two octaves, where a valley is no parabola any more. That it is not
quite one within an octave either shifts the vertex, there by -0.05: that is in no uncertainty, and alike at all widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW_OCTAVES = 1.0
"""Points so near to the best one are fitted."""
NUM_AROUND = 2
"""With one seed: points on each side of the best one whose misfit to a parabola stands for the noise."""
FALLS_BACK_TO = 0.75
"""Of the rise from the bottom to the end of the fitted rates: lower losses beyond that mean that there is no valley.
Simulated with nine rates, noise alone makes a valley with an uncertainty of half an octave at most in 12, 7 and 8 of
100 sweeps with one, two and three seeds; at 0.5 in 26, 17 and 19. Valleys that rise by 1.5 or 3 times the noise in an
octave pass as often with either."""
_SAME = 1e-9
"""Octaves: rates that differ by less are told apart by rounding alone."""

Source = Literal["seeds", "misfit", "grid"]


class NoOptimumError(ValueError):
    """The rates have no optimum that can be trusted; the message says why, and what to sweep."""


@dataclass(frozen=True)
class Optimum:
    """The bottom of a valley of losses."""

    log2_lr: float
    uncertainty: float
    """Octaves: how far the rate would be off in about two of three repeats at most, for its noise alone."""
    source: Source
    """seeds: the spread of their differences. misfit: with one seed, the distance from a parabola, which is at least
    the noise. grid: nothing tells, so it is half the distance between the best rate's neighbours."""
    loss: float
    """At the bottom, nats per token."""
    curvature: float
    """Loss = bottom + curvature * (octaves from the bottom)^2."""
    low: float
    """The least log2 LR that was fitted."""
    high: float

    def loss_at(self, log2_lr: float) -> float:
        """The parabola."""
        return self.loss + self.curvature * (log2_lr - self.log2_lr) ** 2


def find_optimum(log2_lrs: Sequence[float] | np.ndarray, losses_RS: np.ndarray) -> Optimum:
    """The optimum of losses (rates in ascending order, seeds): infinite where diverged, NaN where there is none.

    Raises NoOptimumError where there is no parabola to fit. A rate that diverged with one seed counts as diverged; one
    that lacks a seed is left out, and refused where it may be one that matters.
    """
    x, y = np.asarray(log2_lrs, dtype=float), mean_losses(losses_RS)
    is_whole = ~np.isnan(y)
    x_part, y_part = x[~is_whole], _hopes(losses_RS[~is_whole])
    x, y, losses_RS = x[is_whole], y[is_whole], losses_RS[is_whole]
    _check_whole(x_part[y_part <= y.min(initial=np.inf)])
    best = _best_inside(x, y)
    near = np.abs(x - x[best]) <= WINDOW_OCTAVES + _SAME
    near[best - 1 : best + 2] = True
    near &= np.isfinite(y)
    low, high = map(float, x[near][[0, -1]])
    _check_whole(x_part[(low < x_part) & (x_part < high)])

    # From the best point on, so that neither a large loss nor a small rate costs digits.
    (bottom, slope, curvature), solve = _parabola(x[near] - x[best], y[near] - y[best])
    vertex = -slope / (2 * curvature) if curvature > 0 else np.inf
    if not low - _SAME <= x[best] + vertex <= high + _SAME:
        raise NoOptimumError(
            f"the losses from {rate(low)} to {rate(high)} are no valley, as a parabola through them has no bottom "
            "there: sweep more seeds (--seeds 0,1,2), or other rates between"
        )
    noise, num_free, source = _noise(x, y, losses_RS, best, near)
    by_loss = np.array([0.0, -0.5 / curvature, -vertex / curvature]) @ solve  # how the vertex moves with each loss
    uncertainty = one_sigma(num_free) * noise * float(np.linalg.norm(by_loss))
    if source == "grid":
        uncertainty = float(x[best + 1] - x[best - 1]) / 2
    loss = float(y[best] + bottom + slope * vertex / 2)
    found = Optimum(float(x[best] + vertex), uncertainty, source, loss, float(curvature), low, high)
    _check_alone(x, y, found)
    return found


def mean_losses(losses_RS: np.ndarray) -> np.ndarray:
    """Means over the seeds; infinite where one diverged, NaN where one is missing."""
    diverged = np.isinf(losses_RS).any(axis=1)
    return np.where(diverged, np.inf, np.where(np.isinf(losses_RS), 0.0, losses_RS).mean(axis=1))


def one_sigma(num_free: int) -> float:
    """Student's t for 68 %: what makes up for a standard deviation that is known from `num_free` numbers (by Hill)."""
    return 1.0 + 0.5 / num_free + 0.25 / num_free**2 + 0.0625 / num_free**3


def rate(log2_lr: float) -> str:
    """A learning rate as people write it for a sweep."""
    return f"2^{round(float(log2_lr), 2):g}"


def _best_inside(x: np.ndarray, y: np.ndarray) -> int:
    """The place of the best rate, which has a finite loss on both sides."""
    if len(x) < 3:
        raise NoOptimumError(f"{len(x)} learning rates have a result, and a parabola needs 3: sweep more")
    if not np.isfinite(y).any():
        raise NoOptimumError(f"every rate diverged: sweep smaller ones, below {rate(x[0])}")
    best = int(np.argmin(y))
    for edge, which, side in ((0, "smallest", "smaller"), (len(x) - 1, "largest", "larger")):
        if best == edge:
            raise NoOptimumError(
                f"the best rate, {rate(x[best])}, is the {which} that was swept: sweep {side} ones too"
            )
    for beside in (best - 1, best + 1):
        if not np.isfinite(y[beside]):
            raise NoOptimumError(
                f"the best rate, {rate(x[best])}, is next to one that diverged, {rate(x[beside])}: sweep rates between "
                "(as in --over optimizer.lr=2^-6..2^-3:0.25)"
            )
    return best


def _hopes(losses_RS: np.ndarray) -> np.ndarray:
    """What the means of rates that lack a seed may come to: that of the others, and anything where there are none."""
    there = ~np.isnan(losses_RS)
    sums, counts = np.where(there, losses_RS, 0.0).sum(axis=1), there.sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)


def _check_whole(parts: np.ndarray) -> None:
    """Raise NoOptimumError, which names the first, if there are rates that matter and lack a seed."""
    for log2_lr in parts:
        raise NoOptimumError(f"{rate(log2_lr)} lacks the result of a seed: run `foretrain sweep` to its end")


def _check_alone(x: np.ndarray, y: np.ndarray, found: Optimum) -> None:
    """Raise NoOptimumError if the losses fall again beyond the fitted rates, by a quarter of the rise to there.

    Looks only where a parabola would have risen twice as far from the bottom, so that noise looks like no valley.
    """
    reach = WINDOW_OCTAVES - _SAME
    for end, beyond in ((found.low, x < found.low - reach), (found.high, x > found.high + reach)):
        for log2_lr, loss in zip(x[beyond], y[beyond], strict=True):
            if loss < found.loss + FALLS_BACK_TO * (found.loss_at(end) - found.loss):
                raise NoOptimumError(
                    f"the losses have two valleys, one at {rate(found.log2_lr)} and one at {rate(log2_lr)}: sweep more "
                    "seeds (--seeds 0,1,2), or leave out the rates of one valley"
                )


def _parabola(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients (constant, linear, quadratic) of least squares, and the matrix that makes them of the losses."""
    scale = np.abs(x).max() ** np.arange(3)
    solve = np.linalg.pinv(np.vander(x / scale[1], 3, increasing=True)) / scale[:, None]
    return solve @ y, solve


def _noise(
    x: np.ndarray, y: np.ndarray, losses_RS: np.ndarray, best: int, near: np.ndarray
) -> tuple[float, int, Source]:
    """The standard deviation of a rate's mean loss, the number of free numbers that it is known from, and their source.

    What a seed adds to the loss at every rate does not move the valley, and is no part of it.
    """
    num_seeds = losses_RS.shape[1]
    if num_seeds > 1:
        near_RS = losses_RS[near]
        residual_RS = near_RS - near_RS.mean(axis=0) - near_RS.mean(axis=1, keepdims=True) + near_RS.mean()
        num_free = (len(near_RS) - 1) * (num_seeds - 1)
        return float(np.sqrt((residual_RS**2).sum() / num_free / num_seeds)), num_free, "seeds"
    around = near.copy()
    around[max(0, best - NUM_AROUND) : best + NUM_AROUND + 1] = True
    around &= np.isfinite(y)
    num_free = int(around.sum()) - 3
    if num_free < 1:
        return 0.0, 1, "grid"
    coefficients, _ = _parabola(x[around] - x[best], y[around])
    misfit = y[around] - np.vander(x[around] - x[best], 3, increasing=True) @ coefficients
    return float(np.sqrt((misfit**2).sum() / num_free)), num_free, "misfit"
