"""The noise of runs of the same size, apart from the distance of a law from them. Pure."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from foretrain.scaling.laws.forms import Floats

SIGNIFICANCE = 0.05
"""A law is taken as misspecified if noise alone would be as far from it with a smaller probability."""


@dataclass(frozen=True)
class Replicates:
    """Runs that differ by their seeds alone, in groups of one size each."""

    std: float
    """The standard deviation of the logarithm of the loss of one run; nan if each size has one run."""
    freedom: int
    """The number of runs beyond one of each size."""

    @property
    def is_known(self) -> bool:
        """Whether there are replicates."""
        return self.freedom > 0


@dataclass(frozen=True)
class Sizes:
    """Runs by their sizes (S)."""

    log_x_SV: Floats
    log_loss_S: Floats
    """The mean over the runs of a size."""
    count_S: Floats
    """How many runs each size has, or the sum of their weights."""
    place_R: Floats
    """The size of each run."""


def sizes(log_x_RV: Floats, log_loss_R: Floats, weight_R: Floats | None = None) -> Sizes:
    """The runs by their sizes. `weight_R`: how much each run counts; None: all as much."""
    log_x_SV, place_R = np.unique(log_x_RV, axis=0, return_inverse=True)
    place_R = place_R.reshape(-1)
    weight_R = np.ones(len(log_loss_R)) if weight_R is None else weight_R
    count_S = np.bincount(place_R, weights=weight_R)
    return Sizes(log_x_SV, np.bincount(place_R, weights=weight_R * log_loss_R) / count_S, count_S, place_R)


def replicates(log_x_RV: Floats, log_loss_R: Floats) -> Replicates:
    """The noise that runs of the same size show."""
    of = sizes(log_x_RV, log_loss_R)
    freedom = len(log_loss_R) - len(of.count_S)
    squares = float(((log_loss_R - of.log_loss_S[of.place_R]) ** 2).sum())
    return Replicates(np.sqrt(squares / freedom) if freedom else float("nan"), freedom)


def lack_of_fit(log_x_RV: Floats, log_loss_R: Floats, residual_R: Floats, num_parameters: int) -> float | None:
    """The probability that noise alone is as far from a law as these runs are; None if nothing can be said.

    `residual_R`: the logarithm of the law's loss minus that of each run. This is the F-test of lack of fit: the noise
    of replicates against the distance of the law from their means (Draper and Smith, Applied Regression Analysis, 2.1).
    """
    noise, num_sizes = replicates(log_x_RV, log_loss_R), len(sizes(log_x_RV, log_loss_R).count_S)
    if not noise.is_known or num_sizes <= num_parameters or noise.std == 0:
        return None
    pure = noise.std**2 * noise.freedom
    lack = max(float((residual_R**2).sum()) - pure, 0.0) / (num_sizes - num_parameters)
    return float(stats.f.sf(lack / noise.std**2, num_sizes - num_parameters, noise.freedom))
