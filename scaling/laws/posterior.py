"""The loss that runs predict for a size, with what is known of laws beforehand and of how wrong they are. Pure.

The logarithm of the loss of a run is that of a law, plus a discrepancy, plus noise:

- **The law** has exponents near those of other laws, and a constant that may be any share of the loss (`beliefs.py`).
- **The discrepancy** is a Gaussian process over the logarithms of the sizes (Kennedy and O'Hagan, Bayesian calibration
  of computer models, 2001). The variance of its difference between two sizes is kappa^2 times a power of their distance
  (fractional Brownian motion), and it is zero at the target. So runs count less the farther they are from the target,
  many runs of about one size do not make a law certain that holds for that size alone, and the interval grows with the
  distance.
- **Noise** is that of a run's seed. Runs far from the law have more of it.
- **One size may be wrong**, by far more than noise: a short run that ends in its warm-up, or one whose loss had jumped.
  With a dozen runs, no fit shows which one it is, so each of them may be it.

The runs decide how large discrepancy and noise are. The prediction is the mean over all laws, kappas and noises that
the runs and the priors allow, and not the best one, since few runs leave much open.

Shapes: B draws, S sizes, V variables, U unknowns of the law, K unknowns: those of the law, the level, the noise and
kappa.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr

from foretrain.scaling.laws.beliefs import beliefs
from foretrain.scaling.laws.fit import LEAST_SPARE
from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.noise import Sizes
from foretrain.scaling.laws.tempering import tempered

NUM_DRAWS = 1000
LEVEL_STD = 0.5
"""The standard deviation of the logarithm of the loss of a run of middle size, around the runs' mean: wide."""
USUAL_NOISE, NOISE_FREEDOM = 0.0035, 2.0
"""The noise of a seed, as a share of the loss, and for how many runs this counts (arXiv 2304.03208, section 3.3)."""
USUAL_DISCREPANCY = 0.002
"""The median of kappa before the runs are known: a discrepancy of about 0.4 % between sizes of which one has 30 times
the compute, which is how far published fits are from their runs. Its distribution (Cauchy's, positive) has a heavy
tail: the runs can show a much larger one."""
WRONG_SHARE, WRONG_BY = 0.2, 0.3
"""The probability that one of the sizes is wrong, and the standard deviation of the logarithm of its loss then: a guess
that is not sharp. Of the published tables in docs/prediction.md, those of three families out of six have such runs."""
ROUGHNESS = 1.5
"""The power of the distance: between 1, a random walk, and 2, a straight line. Laws that are wrong bend slowly."""


@dataclass(frozen=True)
class Posterior:
    """What the loss of one size may be."""

    log_loss_B: Floats
    """The logarithm of the mean loss of many runs of the size."""
    std_B: Floats
    """The standard deviation of the logarithm of the loss of one run."""

    def quantile(self, share: float, num_runs: float = 1.0) -> float:
        """The loss of which the mean loss of `num_runs` runs is below with this probability; infinity: of the law."""
        if np.isinf(num_runs):
            return float(np.exp(np.quantile(self.log_loss_B, share)))
        std_B = self.std_B / np.sqrt(num_runs)
        low, high = float((self.log_loss_B - 9 * std_B).min()), float((self.log_loss_B + 9 * std_B).max())
        for _ in range(60):
            middle = 0.5 * (low + high)
            is_below = float(ndtr((middle - self.log_loss_B) / std_B).mean()) < share
            low, high = (middle, high) if is_below else (low, middle)
        return float(np.exp(0.5 * (low + high)))


def posterior(form: Form, of: Sizes, squares: float, target_V: Floats, *, num_runs: int, seed: int = 0) -> Posterior:
    """What runs show of the loss at a target.

    `of`: the sizes of the runs, with the logarithms of variables in any unit, and how much the runs of each count.
    `squares`: the sum of the squared distances of the runs from the means of their sizes. `target_V`: the logarithms
    of the target's variables, in the same unit.
    """
    return _Model(form, of, squares, target_V, num_runs).solved(np.random.default_rng(seed))


class _Model:
    """The priors and the likelihood for one target."""

    def __init__(self, form: Form, of: Sizes, squares: float, target_V: Floats, num_runs: int) -> None:
        self.replicates, self.squares = num_runs - len(of.count_S), squares
        middle_V = of.log_x_SV.mean(axis=0)
        self.law = beliefs(form, middle_V)
        self.log_x_SV, self.target_V = of.log_x_SV - middle_V, target_V - middle_V
        self.mean = float(np.average(of.log_loss_S, weights=of.count_S))
        # With few sizes, a law can go through all of the others without one: there is nothing to find a wrong one by.
        self.wrong_share = WRONG_SHARE if len(of.count_S) >= len(form.parameters) + LEAST_SPARE else 0.0
        # In these axes, the discrepancies of sizes are independent of each other, and so is noise.
        root_S = np.sqrt(of.count_S)
        self.variance_S, axes_SS = np.linalg.eigh(self._covariance() * root_S * root_S[:, None])
        self.variance_S = np.maximum(self.variance_S, 0.0)
        self.axes_SS = root_S[:, None] * axes_SS
        self.seen_S = of.log_loss_S @ self.axes_SS

    def _covariance(self) -> Floats:
        """The covariance of the discrepancies of the sizes, for a kappa of 1 (S, S)."""
        from_target_S = distance(self.log_x_SV, self.target_V[None])[:, 0]
        apart_SS = distance(self.log_x_SV, self.log_x_SV)
        return np.asarray(0.5 * (from_target_S[:, None] + from_target_S - apart_SS))

    def solved(self, random: np.random.Generator) -> Posterior:
        """The posterior."""
        draws_BK = tempered(self.log_prior, self.log_likelihood, self.priors(random), random)
        return Posterior(self._log_loss(draws_BK, self.target_V[None])[:, 0], np.exp(draws_BK[:, -2]))

    def priors(self, random: np.random.Generator) -> Floats:
        """Draws of the priors."""
        law_BU = self.law.draws(NUM_DRAWS, random)
        level_B = self.mean + LEVEL_STD * random.standard_normal(NUM_DRAWS)
        noise_B = np.log(USUAL_NOISE) + 0.5 * np.log(NOISE_FREEDOM / random.chisquare(NOISE_FREEDOM, NUM_DRAWS))
        kappa_B = np.log(USUAL_DISCREPANCY) + np.log(np.abs(random.standard_cauchy(NUM_DRAWS)))
        return np.column_stack([law_BU, level_B, noise_B, kappa_B])

    def log_prior(self, draws_BK: Floats) -> Floats:
        """The density of the priors (B): of unknowns as they are drawn."""
        level_B, noise_B, kappa_B = draws_BK[:, -3:].T
        level_prior_B = -0.5 * ((level_B - self.mean) / LEVEL_STD) ** 2
        less_B = np.log(USUAL_NOISE) - noise_B
        noise_prior_B = NOISE_FREEDOM * less_B - 0.5 * NOISE_FREEDOM * np.exp(2 * less_B)
        more_B = kappa_B - np.log(USUAL_DISCREPANCY)
        kappa_prior_B = more_B - np.logaddexp(0.0, 2 * more_B)
        return np.asarray(self.law.log_prior(draws_BK[:, :-3]) + level_prior_B + noise_prior_B + kappa_prior_B)

    def log_likelihood(self, draws_BK: Floats) -> Floats:
        """The density of the losses of the runs (B)."""
        noise_B, kappa_B = draws_BK[:, -2:].T
        residual_BS = self._log_loss(draws_BK, self.log_x_SV) @ self.axes_SS - self.seen_S
        noise_B1 = np.exp(2 * noise_B)[:, None]
        variance_BS = noise_B1 + np.exp(2 * kappa_B)[:, None] * self.variance_S
        between_B = -0.5 * (residual_BS**2 / variance_BS + np.log(variance_BS)).sum(1)
        right_B = np.asarray(between_B - self.replicates * noise_B - 0.5 * self.squares / noise_B1[:, 0])
        return right_B + self._if_one_is_wrong(residual_BS, variance_BS) if self.wrong_share else right_B

    def _if_one_is_wrong(self, residual_BS: Floats, variance_BS: Floats) -> Floats:
        """What the density gains if any of the sizes may be wrong (B).

        A wrong size has another variance, WRONG_BY^2 more. The inverse and the determinant of a covariance with one
        changed element follow from those without it (Sherman and Morrison, 1950).
        """
        pull_BS = residual_BS / variance_BS @ self.axes_SS.T
        inverse_BS = (1.0 / variance_BS) @ (self.axes_SS**2).T
        growth_BS = 1.0 + WRONG_BY**2 * inverse_BS
        gain_BS = 0.5 * (WRONG_BY**2 * pull_BS**2 / growth_BS - np.log(growth_BS))
        share = self.wrong_share / gain_BS.shape[1]
        return np.asarray(np.logaddexp(np.log1p(-self.wrong_share), np.log(share) + logsumexp(gain_BS, axis=1)))

    def _log_loss(self, draws_BK: Floats, log_x_SV: Floats) -> Floats:
        """The logarithm of the law's loss (B, S)."""
        return np.asarray(draws_BK[:, -3, None] + self.law.log_loss(draws_BK[:, :-3], log_x_SV))


def distance(one_SV: Floats, other_SV: Floats) -> Floats:
    """The variances of the differences of discrepancies between sizes (S, S), for a kappa of 1."""
    return np.asarray(((one_SV[:, None] - other_SV) ** 2).sum(-1) ** (0.5 * ROUGHNESS))
