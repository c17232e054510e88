"""Draws from a distribution that is known up to a factor, by tempering. Pure.

The draws start as ones of the prior. The likelihood is raised to a power that grows from 0 to 1 in steps; after each,
draws are chosen again by their weights and moved by Metropolis steps (Del Moral, Doucet and Jasra, Sequential Monte
Carlo samplers, 2006). It needs no starting point near the solution, and finds posteriors that are curved or that the
runs leave open. A fixed seed makes the draws, and all that follows from them, repeatable.

Shapes: B draws, K unknowns.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from foretrain.scaling.laws.forms import Floats

KEPT = 0.3
"""A step raises the power as far as this share of the draws would stay effective."""
MOVES = 6
"""Metropolis steps after each but the last rise of the power."""
LAST_MOVES = 40
"""Metropolis steps at the end."""
SCALES = (2.38, 0.6)
"""Lengths of Metropolis steps, in turn, times the spread of the draws over the root of K: the best one for a normal
distribution (Roberts, Gelman and Gilks, 1997), and a shorter one for curved distributions."""

LogDensity = Callable[[Floats], Floats]
"""From unknowns (B, K) to the logarithm of a density (B), up to a constant."""


def tempered(
    log_prior: LogDensity, log_likelihood: LogDensity, draws_BK: Floats, random: np.random.Generator
) -> Floats:
    """Draws of the posterior (B, K), from as many independent ones of the prior."""
    power, likelihood_B, prior_B = 0.0, log_likelihood(draws_BK), log_prior(draws_BK)
    while power < 1.0:
        rise = _rise(likelihood_B, 1.0 - power)
        power = min(power + rise, 1.0)
        place_B = _chosen(rise * likelihood_B, random)
        draws_BK, likelihood_B, prior_B = draws_BK[place_B], likelihood_B[place_B], prior_B[place_B]
        for number in range(MOVES if power < 1.0 else LAST_MOVES):
            step_BK = _step(draws_BK, SCALES[number % len(SCALES)], random)
            other_BK = draws_BK + step_BK
            other_likelihood_B, other_prior_B = log_likelihood(other_BK), log_prior(other_BK)
            gain_B = power * (other_likelihood_B - likelihood_B) + other_prior_B - prior_B
            is_moved_B = np.log(random.random(len(draws_BK))) < gain_B
            draws_BK = np.where(is_moved_B[:, None], other_BK, draws_BK)
            likelihood_B = np.where(is_moved_B, other_likelihood_B, likelihood_B)
            prior_B = np.where(is_moved_B, other_prior_B, prior_B)
    return draws_BK


def _step(draws_BK: Floats, scale: float, random: np.random.Generator) -> Floats:
    """Steps with the covariance of the draws."""
    num = draws_BK.shape[1]
    root_KK = np.linalg.cholesky(np.cov(draws_BK.T) + 1e-12 * np.eye(num))
    return np.asarray(scale / np.sqrt(num) * random.standard_normal(draws_BK.shape) @ root_KK.T)


def _rise(likelihood_B: Floats, most: float) -> float:
    """How far the power can rise, at most `most`, with KEPT of the draws effective; by bisection."""

    def effective(rise: float) -> float:
        log_weight_B = rise * likelihood_B
        return float(np.exp(2 * logsumexp(log_weight_B) - logsumexp(2 * log_weight_B)))

    least = KEPT * len(likelihood_B)
    if effective(most) >= least:
        return most
    low, high = 0.0, most
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) >= least else (low, middle)
    return high


def _chosen(log_weight_B: Floats, random: np.random.Generator) -> Floats:
    """Places of draws that are chosen by their weights, evenly spread (systematic resampling)."""
    total_B = np.cumsum(np.exp(log_weight_B - logsumexp(log_weight_B)))
    even_B = (random.random() + np.arange(len(total_B))) / len(total_B)
    return np.minimum(np.searchsorted(total_B, even_B), len(total_B) - 1)
