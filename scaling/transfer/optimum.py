"""The best learning rate of one proxy: the vertex of a parabola in log2 LR, and how well it is known. Pure.

The parabola is fitted by least squares to the points within an octave of the best one. With one rate in each octave
these are the best point and its two neighbors, and the parabola goes through them. With finer rates it uses more
points.

A simulation chose that octave: four rates in an octave, two seeds, a noise of 0.01 nats, and a valley that is 0.02 nats
higher an octave below its bottom and 0.03 above, 0.08 and 0.16 at two octaves. The vertex is off by 0.11 octave (root
mean square) with points within one octave, by 0.27 with three points, and by 0.20 within two octaves, where a valley is
no longer a parabola. Within one octave it is not quite a parabola either, which shifts the vertex by -0.05 there. No
uncertainty includes that shift, but it is the same at all widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt
from typing import Literal

import numpy as np
from scipy.special import stdtrit

WINDOW_OCTAVES = 1.0
"""Points this close to the best one are fitted."""
NUM_AROUND = 2
"""With one seed: points on each side of the best one whose distance from a parabola estimates the noise."""
FALLS_BACK_TO = 0.75
"""Share of the rise from the bottom to the end of the fitted rates: lower losses beyond that end mean a second valley.

Simulated with nine rates, noise alone passes as a valley with an uncertainty of at most half an octave in 12, 7 and 8
of 100 sweeps with one, two and three seeds; with a share of 0.5 in 26, 17 and 19. Valleys that rise by 1.5 or 3 times
the noise in an octave pass as often with either."""
_ROUNDING = 1e-9
"""Octaves: rates that differ by less are the same."""
_ONE_SIGMA = (1 + erf(1 / sqrt(2))) / 2
"""Probability that a normal value is less than one standard deviation above its mean, 0.8413."""

Source = Literal["seeds", "misfit", "grid"]


class NoOptimumError(ValueError):
    """The rates have no optimum that can be trusted; the message says why, and what to sweep."""


@dataclass(frozen=True)
class Optimum:
    """The bottom of a valley of losses."""

    log2_lr: float
    uncertainty: float
    """Octaves: in about two of three repeats, noise moves the optimum by at most this much."""
    source: Source
    """Where the uncertainty comes from. seeds: the spread of their differences. misfit: with one seed, the distance
    from a parabola, which is at least the noise. grid: nothing shows the noise, so half the distance between the
    neighbors of the best rate."""
    loss: float
    """At the bottom, nats per token."""
    curvature: float
    """Loss = bottom + curvature * (octaves from the bottom)^2."""
    low: float
    """The lowest log2 LR that was fitted."""
    high: float

    def loss_at(self, log2_lr: float) -> float:
        """The parabola."""
        return self.loss + self.curvature * (log2_lr - self.log2_lr) ** 2


def find_optimum(log2_lrs: Sequence[float] | np.ndarray, losses_RS: np.ndarray) -> Optimum:
    """The optimum of losses (rates in ascending order, seeds): infinite if a trial diverged, NaN if there is none.

    Raises NoOptimumError if no parabola can be fitted. A rate that diverged with one seed counts as diverged. A rate
    that lacks a seed is left out, and refused if it may matter.
    """
    x, y = np.asarray(log2_lrs, dtype=float), mean_losses(losses_RS)
    complete = ~np.isnan(y)
    x_part, y_part = x[~complete], _possible_means(losses_RS[~complete])
    x, y, losses_RS = x[complete], y[complete], losses_RS[complete]
    _check_complete(x_part[y_part <= y.min(initial=np.inf)])
    best = _best_inside(x, y)
    near = np.abs(x - x[best]) <= WINDOW_OCTAVES + _ROUNDING
    near[best - 1 : best + 2] = True
    near &= np.isfinite(y)
    low, high = map(float, x[near][[0, -1]])
    _check_complete(x_part[(low < x_part) & (x_part < high)])

    # Relative to the best point, so that neither a large loss nor a small rate costs digits.
    (curvature, slope, bottom), covariance = np.polyfit(x[near] - x[best], y[near] - y[best], 2, cov="unscaled")
    vertex = -slope / (2 * curvature) if curvature > 0 else np.inf
    if not low - _ROUNDING <= x[best] + vertex <= high + _ROUNDING:
        raise NoOptimumError(
            f"the losses from {format_rate(low)} to {format_rate(high)} are not a valley, because a parabola through "
            "them has no bottom there: sweep more seeds (--seeds 0,1,2), or other rates between"
        )
    noise, num_free, source = _noise(x, y, losses_RS, best, near)
    gradient = np.array([-vertex / curvature, -0.5 / curvature, 0.0])  # derivatives of the vertex by the coefficients
    uncertainty = one_sigma(num_free) * noise * float(np.sqrt(gradient @ covariance @ gradient))
    if source == "grid":
        uncertainty = float(x[best + 1] - x[best - 1]) / 2
    loss = float(y[best] + bottom + slope * vertex / 2)
    found = Optimum(float(x[best] + vertex), uncertainty, source, loss, float(curvature), low, high)
    _check_single_valley(x, y, found)
    return found


def mean_losses(losses_RS: np.ndarray) -> np.ndarray:
    """Means over the seeds; infinite if one diverged, NaN if one is missing."""
    diverged = np.isinf(losses_RS).any(axis=1)
    return np.where(diverged, np.inf, np.where(np.isinf(losses_RS), 0.0, losses_RS).mean(axis=1))


def one_sigma(num_free: int) -> float:
    """Student's t for 68 %: corrects for a standard deviation that was estimated with `num_free` degrees of freedom."""
    return float(stdtrit(num_free, _ONE_SIGMA))


def format_rate(log2_lr: float) -> str:
    """A learning rate in the notation of `foretrain sweep --over`."""
    return f"2^{round(float(log2_lr), 2):g}"


def _best_inside(x: np.ndarray, y: np.ndarray) -> int:
    """The index of the best rate, which has a finite loss on both sides."""
    if len(x) < 3:
        raise NoOptimumError(f"{len(x)} learning rates have a result, and a parabola needs 3: sweep more")
    if not np.isfinite(y).any():
        raise NoOptimumError(f"every rate diverged: sweep smaller ones, below {format_rate(x[0])}")
    best = int(np.argmin(y))
    for edge, which, side in ((0, "smallest", "smaller"), (len(x) - 1, "largest", "larger")):
        if best == edge:
            raise NoOptimumError(
                f"the best rate, {format_rate(x[best])}, is the {which} that was swept: sweep {side} ones too"
            )
    for beside in (best - 1, best + 1):
        if not np.isfinite(y[beside]):
            raise NoOptimumError(
                f"the best rate, {format_rate(x[best])}, is next to one that diverged, {format_rate(x[beside])}: sweep "
                "rates between (as in --over optimizer.lr=2^-6..2^-3:0.25)"
            )
    return best


def _possible_means(losses_RS: np.ndarray) -> np.ndarray:
    """The means that rates with missing seeds may have: that of the known seeds, or -infinity if none is known."""
    known = ~np.isnan(losses_RS)
    sums, counts = np.where(known, losses_RS, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)


def _check_complete(incomplete: np.ndarray) -> None:
    """Raise NoOptimumError, which names the first, if there are rates that matter and lack a seed."""
    for log2_lr in incomplete:
        raise NoOptimumError(f"{format_rate(log2_lr)} lacks the result of a seed: run `foretrain sweep` to its end")


def _check_single_valley(x: np.ndarray, y: np.ndarray, found: Optimum) -> None:
    """Raise NoOptimumError if the losses fall again beyond the fitted rates, by a quarter of the rise up to there.

    Only rates at which a parabola would have risen twice as far are looked at, so that noise does not look like a
    valley.
    """
    reach = WINDOW_OCTAVES - _ROUNDING
    for end, beyond in ((found.low, x < found.low - reach), (found.high, x > found.high + reach)):
        for log2_lr, loss in zip(x[beyond], y[beyond], strict=True):
            if loss < found.loss + FALLS_BACK_TO * (found.loss_at(end) - found.loss):
                raise NoOptimumError(
                    f"the losses have two valleys, one at {format_rate(found.log2_lr)} and one at "
                    f"{format_rate(log2_lr)}: sweep more seeds (--seeds 0,1,2), or leave out the rates of one valley"
                )


def _noise(
    x: np.ndarray, y: np.ndarray, losses_RS: np.ndarray, best: int, near: np.ndarray
) -> tuple[float, int, Source]:
    """The standard deviation of a rate's mean loss, the degrees of freedom of that estimate, and its source.

    What a seed adds to the loss at every rate does not move the valley, and is not part of the noise.
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
    offsets = x[around] - x[best]
    misfit = y[around] - np.polyval(np.polyfit(offsets, y[around], 2), offsets)
    return float(np.sqrt((misfit**2).sum() / num_free)), num_free, "misfit"
