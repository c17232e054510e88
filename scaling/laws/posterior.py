"""The loss that runs predict for a size, with what is known of laws beforehand and of how wrong they are. Pure.

The logarithm of the loss of a run is that of a law, plus a discrepancy, plus noise:

- **The law** has exponents near those of other laws (`Form.usual`), and a constant that may be any share of the loss.
- **The discrepancy** is a Gaussian process over the logarithms of the sizes (Kennedy and O'Hagan, Bayesian calibration
  of computer models, 2001). The variance of its difference between two sizes is kappa^2 times a power of their distance
  (fractional Brownian motion), and it is zero at the target. So runs count less the farther they are from the target,
  many runs of about one size do not make a law certain that holds for that size alone, and the interval grows with the
  distance.
- **Noise** is that of a run's seed. Runs far from the law have more of it.

The runs decide how large discrepancy and noise are. The prediction is the mean over all laws, kappas and noises that
the runs and the priors allow, and not the best one, since few runs leave much open.

Shapes: B draws, S sizes, V variables, T terms, E exponents, K unknowns: the exponents, the coefficients as shares of
the loss but for the last (T - 1), the level, the noise and kappa.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr

from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.noise import Sizes
from foretrain.scaling.laws.tempering import tempered

NUM_DRAWS = 1000
LEVEL_STD = 0.5
"""The standard deviation of the logarithm of the loss of a run of middle size, around the runs' mean: wide."""
ANY_EXPONENT = 0.2
"""The usual exponent of a law that names none."""
USUAL_NOISE, NOISE_FREEDOM = 0.0035, 2.0
"""The noise of a seed, as a share of the loss, and for how many runs this counts (arXiv 2304.03208, section 3.3)."""
USUAL_DISCREPANCY = 0.003
"""The median of kappa before the runs are known: a discrepancy of about 0.6 % between sizes of which one has 30 times
the compute, which is how far published fits are from their runs. Its distribution (Cauchy's, positive) has a heavy
tail: the runs can show a much larger one."""
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
        self.form, self.replicates, self.squares = form, num_runs - len(of.count_S), squares
        middle_V = of.log_x_SV.mean(axis=0)
        self.log_x_SV, self.target_V = of.log_x_SV - middle_V, target_V - middle_V
        self.mean = float(np.average(of.log_loss_S, weights=of.count_S))
        self.exponents, self.terms = len(form.exponents), len(form.terms)
        self.usual_E = np.log([form.usual.get(name, ANY_EXPONENT) for name in form.exponents])
        # The constant is as likely as the other terms together.
        others = max(self.terms - 1, 1) if form.constant else 1
        self.weight_T = np.array([1.0 if term.exponents else others for term in form.terms])
        # In these axes, the discrepancies of sizes are independent of each other, and so is noise.
        root_S = np.sqrt(of.count_S)
        self.variance_S, axes_SS = np.linalg.eigh(self._covariance() * root_S * root_S[:, None])
        self.variance_S = np.maximum(self.variance_S, 0.0)
        self.axes_SS = root_S[:, None] * axes_SS
        self.seen_S = of.log_loss_S @ self.axes_SS
        self.at_sizes, self.at_target = (form.powers(x_SV) for x_SV in (self.log_x_SV, self.target_V[None]))

    def _covariance(self) -> Floats:
        """The covariance of the discrepancies of the sizes, for a kappa of 1 (S, S)."""
        from_target_S = distance(self.log_x_SV, self.target_V[None])[:, 0]
        apart_SS = distance(self.log_x_SV, self.log_x_SV)
        return np.asarray(0.5 * (from_target_S[:, None] + from_target_S - apart_SS))

    def solved(self, random: np.random.Generator) -> Posterior:
        """The posterior."""
        draws_BK = tempered(self.log_prior, self.log_likelihood, self.priors(random), random)
        log_loss_B = self._law(draws_BK, self.at_target)[:, 0]
        return Posterior(log_loss_B, np.exp(draws_BK[:, -2]))

    def priors(self, random: np.random.Generator) -> Floats:
        """Draws of the priors."""
        exponents_BE = self.usual_E + self.form.usual_std * random.standard_normal((NUM_DRAWS, self.exponents))
        shares_BT = np.log(np.maximum(random.dirichlet(self.weight_T, NUM_DRAWS), 1e-300))
        level_B = self.mean + LEVEL_STD * random.standard_normal(NUM_DRAWS)
        noise_B = np.log(USUAL_NOISE) + 0.5 * np.log(NOISE_FREEDOM / random.chisquare(NOISE_FREEDOM, NUM_DRAWS))
        kappa_B = np.log(USUAL_DISCREPANCY) + np.log(np.abs(random.standard_cauchy(NUM_DRAWS)))
        ratios_BT = shares_BT[:, :-1] - shares_BT[:, -1:]
        return np.column_stack([exponents_BE, ratios_BT, level_B, noise_B, kappa_B])

    def log_prior(self, draws_BK: Floats) -> Floats:
        """The density of the priors (B): of unknowns as they are drawn."""
        exponents_BE, shares_BT, level_B, noise_B, kappa_B = self._split(draws_BK)
        usual_B = -0.5 * (((exponents_BE - self.usual_E) / self.form.usual_std) ** 2).sum(1)
        level_prior_B = -0.5 * ((level_B - self.mean) / LEVEL_STD) ** 2
        less_B = np.log(USUAL_NOISE) - noise_B
        noise_prior_B = NOISE_FREEDOM * less_B - 0.5 * NOISE_FREEDOM * np.exp(2 * less_B)
        more_B = kappa_B - np.log(USUAL_DISCREPANCY)
        kappa_prior_B = more_B - np.logaddexp(0.0, 2 * more_B)
        return np.asarray(usual_B + shares_BT @ self.weight_T + level_prior_B + noise_prior_B + kappa_prior_B)

    def log_likelihood(self, draws_BK: Floats) -> Floats:
        """The density of the losses of the runs (B)."""
        *_, noise_B, kappa_B = self._split(draws_BK)
        residual_BS = self._law(draws_BK, self.at_sizes) @ self.axes_SS - self.seen_S
        noise_B1 = np.exp(2 * noise_B)[:, None]
        variance_BS = noise_B1 + np.exp(2 * kappa_B)[:, None] * self.variance_S
        between_B = -0.5 * (residual_BS**2 / variance_BS + np.log(variance_BS)).sum(1)
        return np.asarray(between_B - self.replicates * noise_B - 0.5 * self.squares / noise_B1[:, 0])

    def _split(self, draws_BK: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """The logarithms of exponents, of the shares of the terms, of the level, of the noise and of kappa."""
        ends = self.exponents, self.exponents + self.terms - 1
        ratios_BT = np.column_stack([draws_BK[:, slice(*ends)], np.zeros(len(draws_BK))])
        shares_BT = ratios_BT - logsumexp(ratios_BT, axis=1, keepdims=True)
        return draws_BK[:, : ends[0]], shares_BT, *draws_BK[:, ends[1] :].T

    def _law(self, draws_BK: Floats, powers_STE: Floats) -> Floats:
        """The logarithm of the law's loss (B, S)."""
        exponents_BE, shares_BT, level_B, *_ = self._split(draws_BK)
        shape = len(draws_BK), *powers_STE.shape[:2]
        less_BST = (np.exp(exponents_BE) @ powers_STE.reshape(-1, self.exponents).T).reshape(shape)
        terms_BST = np.exp((shares_BT + level_B[:, None])[:, None] - less_BST)
        return np.asarray(np.log(terms_BST.sum(-1)))


def distance(one_SV: Floats, other_SV: Floats) -> Floats:
    """The variances of the differences of discrepancies between sizes (S, S), for a kappa of 1."""
    return np.asarray(((one_SV[:, None] - other_SV) ** 2).sum(-1) ** (0.5 * ROUGHNESS))
