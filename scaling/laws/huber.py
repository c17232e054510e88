"""The sum of Huber losses of the logarithms of losses, and its minimum. Pure.

The Huber losses are summed and not averaged: if they are averaged, the minimizer stops too early (arXiv 2404.10102).
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

Floats = np.ndarray

DELTA = 1e-3
"""Where the Huber loss of a difference of logarithms changes from a square to a line (arXiv 2203.15556, 2404.10102)."""
HUBER_TUNING = 1.345
"""Standard deviations at which the Huber loss changes if it is chosen by the noise: 95 % as efficient as least squares
if the noise is normal (Huber, Robust Statistics, 1981)."""
MAD_TO_STD = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""

Differences = Callable[[Floats], tuple[Floats, Floats]]
"""From the parameters to the difference of the logarithms of each loss (N), and its derivatives by them (N, P)."""


def huber_sum(
    difference_N: Floats, derivatives_NP: Floats, delta: float, weight_N: Floats | float = 1.0
) -> tuple[float, Floats]:
    """The sum of the Huber losses of differences of logarithms, and its derivatives by the parameters."""
    size = np.abs(difference_N)
    huber = np.where(size <= delta, 0.5 * difference_N**2, delta * (size - 0.5 * delta))
    return float((weight_N * huber).sum()), (weight_N * np.clip(difference_N, -delta, delta)) @ derivatives_NP


def delta_by_noise(distance_N: Floats, num_parameters: int) -> float:
    """Where the Huber loss should change, by the noise: from the distances of a first law, which are at least zero.

    The first law goes almost through as many points as it has parameters, which show nothing of the noise.
    """
    distances = np.sort(distance_N)[num_parameters:]
    return max(DELTA, HUBER_TUNING * MAD_TO_STD * float(np.median(distances))) if len(distances) else DELTA


def refined(
    differences: Differences, start_P: Floats, delta: float, weight_N: Floats | float = 1.0
) -> tuple[Floats, float]:
    """The parameters at the nearest minimum of the sum of the Huber losses, and the sum there.

    Begins with a large delta, which is almost least squares: with a small one, the sum has a kink in each loss that the
    law goes through, at which the minimizer stops.
    """
    theta_P, num_losses = start_P, len(differences(start_P)[0])
    for smooth in (max(delta, 0.1), max(delta, 0.01), delta, delta):  # the last two: its curvature begins again
        scale = 1.0 / (smooth**2 * num_losses)  # makes tolerances, which are absolute, small beside the objective

        def scaled(theta_P: Floats, delta: float = smooth, scale: float = scale) -> tuple[float, Floats]:
            value, gradient = huber_sum(*differences(theta_P), delta, weight_N)
            return scale * value, scale * gradient

        theta_P = minimize(scaled, theta_P, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    return theta_P, huber_sum(*differences(theta_P), delta, weight_N)[0]
