"""What is known of laws before there are runs: their unknowns, how likely these are, and the losses they give. Pure.

Losses are relative to a level, and variables to a middle size, so that no belief depends on units.

Shapes: B draws, S sizes, V variables, T terms, E exponents, U unknowns of a law.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from foretrain.scaling.laws.forms import Floats, Form

ANY_EXPONENT = 0.2
"""The usual exponent of a law that names none."""
USUAL_EXPONENT, EXPONENT_STD = 0.3, 0.4
"""The geometric mean of the exponents of N and of D, and the standard deviation of its logarithm. Published laws with a
constant have 0.24 (arXiv 2403.08540), 0.26 (2404.06395), 0.31 (2203.15556), 0.35 (2305.16264) and 0.36 (2404.10102);
the law of compute of 2304.03208 is as one with 0.15."""
RATIO_STD = 0.25
"""The standard deviation of the logarithm of the exponent of N over that of D. The best N of those laws grows as a
power of compute between 0.44 and 0.51, which are ratios between 1.3 and 0.96."""
USUAL_TOKENS_PER_PARAM, BALANCE_STD = 20.0, 0.5
"""At how many tokens per parameter more parameters and more tokens lower the loss about as much, and the standard
deviation of the logarithm of what one lowers it over what the other does. The best numbers that were published are
between 10 and 200, which is a factor of 2 to either side for exponents as above."""
LEAST_LOG_ODDS = -5.0
"""The least log-odds of gamma, so that the exponents inside of the sum remain finite."""


class Beliefs(Protocol):
    """A law for which some parameters are more likely than others."""

    @property
    def size(self) -> int:
        """The number of unknowns."""

    def draws(self, num: int, random: np.random.Generator) -> Floats:
        """Independent draws of the unknowns (num, U)."""

    def log_prior(self, draws_BU: Floats) -> Floats:
        """The logarithm of their density (B), up to a constant."""

    def log_loss(self, draws_BU: Floats, log_x_SV: Floats) -> Floats:
        """The logarithm of the loss over the level (B, S). `log_x_SV`: logarithms of variables over the middle size."""


def beliefs(form: Form, middle_V: Floats) -> Beliefs:
    """What is known of a law. `middle_V`: the logarithms of the variables of the middle size of the runs."""
    return Interacting(float(middle_V[1] - middle_V[0])) if form.interacts else Additive(form)


@dataclass(frozen=True)
class Additive:
    """A form as it is: exponents near the usual ones, each on its own, and any shares of the terms.

    Unknowns: the logarithms of the exponents, and those of the shares of the terms over the share of the last one.
    """

    form: Form

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return len(self.form.exponents) + len(self.form.terms) - 1

    @cached_property
    def _usual(self) -> Floats:
        return np.asarray(np.log([self.form.usual.get(name, ANY_EXPONENT) for name in self.form.exponents]))

    @cached_property
    def _weights(self) -> Floats:
        """The parameters of Dirichlet's distribution: the constant is as likely as the other terms together."""
        others = max(len(self.form.terms) - 1, 1) if self.form.constant else 1
        return np.array([1.0 if term.exponents else others for term in self.form.terms])

    def draws(self, num: int, random: np.random.Generator) -> Floats:
        """Independent draws of the unknowns (num, U)."""
        exponents_BE = self._usual + self.form.usual_std * random.standard_normal((num, len(self._usual)))
        shares_BT = np.log(np.maximum(random.dirichlet(self._weights, num), 1e-300))
        return np.column_stack([exponents_BE, shares_BT[:, :-1] - shares_BT[:, -1:]])

    def log_prior(self, draws_BU: Floats) -> Floats:
        """The logarithm of their density (B), up to a constant."""
        exponents_BE, shares_BT = self._split(draws_BU)
        usual_B = -0.5 * (((exponents_BE - self._usual) / self.form.usual_std) ** 2).sum(1)
        return np.asarray(usual_B + shares_BT @ self._weights)

    def log_loss(self, draws_BU: Floats, log_x_SV: Floats) -> Floats:
        """The logarithm of the loss over the level (B, S)."""
        exponents_BE, shares_BT = self._split(draws_BU)
        powers_STE = self.form.powers(log_x_SV)
        less_BST = np.exp(exponents_BE) @ powers_STE.reshape(-1, powers_STE.shape[-1]).T
        terms_BST = np.exp(shares_BT[:, None] - less_BST.reshape(len(draws_BU), *powers_STE.shape[:2]))
        return np.asarray(np.log(terms_BST.sum(-1)))

    def _split(self, draws_BU: Floats) -> tuple[Floats, Floats]:
        """The logarithms of the exponents, and of the shares of the terms."""
        num = len(self.form.exponents)
        ratios_BT = np.column_stack([draws_BU[:, num:], np.zeros(len(draws_BU))])
        return draws_BU[:, :num], ratios_BT - logsumexp(ratios_BT, axis=1, keepdims=True)


@dataclass(frozen=True)
class Interacting:
    """L(N, D) = E + (A / N^a + B / D^b)^gamma, with gamma between 0 and 1.

    It is E + A / N^alpha + B / D^beta if gamma is 1, and the law of arXiv 2001.08361 (equation 1.5) if E is 0. Where
    one term is much larger than the other, the exponents are alpha = a gamma and beta = b gamma; with a smaller gamma,
    more tokens help a larger model more. In fits to complete tables, gamma is 0.22 and 0.39 (the ladder of OLMo on two
    corpora), 0.28 (arXiv 2503.04715), 0.34 to 0.39 (2403.08540), 0.50 (2305.16264) and 0.84 (2203.15556), and a gamma
    of 1 leaves three to four times the distance in the first two, which have little noise.

    Unknowns: the logarithm of the geometric mean of alpha and beta, that of alpha / beta, the log-odds of gamma and of
    the share of the constant in the loss of the middle size, and the logarithm of what more parameters lower the loss
    over what more tokens do.
    """

    tokens_per_param: float
    """The logarithm of the tokens per parameter of the middle size."""

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return 5

    def draws(self, num: int, random: np.random.Generator) -> Floats:
        """Independent draws of the unknowns (num, U)."""
        mean_B, ratio_B, balance_B = (spread * random.standard_normal(num) for spread in self._spreads)
        gamma_B, constant_B = random.beta(1.0, 1.0, num), random.beta(2.0, 2.0, num)
        log_odds = [np.log(each_B) - np.log1p(-each_B) for each_B in (gamma_B, constant_B)]
        return np.column_stack([np.log(USUAL_EXPONENT) + mean_B, ratio_B, *log_odds, balance_B])

    def log_prior(self, draws_BU: Floats) -> Floats:
        """The logarithm of their density (B), up to a constant.

        Gamma may be anything, and so may the share of the constant, with less at the ends: the constant is as likely
        as the other terms together.
        """
        mean_B, ratio_B, gamma_B, constant_B, balance_B = draws_BU.T
        distances_B = np.stack([mean_B - np.log(USUAL_EXPONENT), ratio_B, balance_B], axis=1) / self._spreads
        ends_B = log_expit(gamma_B) + log_expit(-gamma_B) + 2 * log_expit(constant_B) + 2 * log_expit(-constant_B)
        return np.asarray(ends_B - 0.5 * (distances_B**2).sum(1))

    def log_loss(self, draws_BU: Floats, log_x_SV: Floats) -> Floats:
        """The logarithm of the loss over the level (B, S)."""
        mean_B, ratio_B, gamma_B, constant_B, balance_B = (each_B[:, None] for each_B in draws_BU.T)
        gamma_B = expit(np.maximum(gamma_B, LEAST_LOG_ODDS))
        alpha_B, beta_B = np.exp(mean_B + 0.5 * ratio_B), np.exp(mean_B - 0.5 * ratio_B)
        log_n_S, log_d_S = log_x_SV.T
        # At the middle N with the usual tokens per parameter, where the sum is 1, the slopes alpha A and beta B of the
        # two terms have the ratio exp(balance).
        odds_B = balance_B - ratio_B
        usual_d = np.log(USUAL_TOKENS_PER_PARAM) - self.tokens_per_param
        by_n_BS = log_expit(odds_B) - alpha_B / gamma_B * log_n_S
        by_d_BS = log_expit(-odds_B) - beta_B / gamma_B * (log_d_S - usual_d)
        sum_BS = np.maximum(by_n_BS, by_d_BS) + np.log1p(np.exp(-np.abs(by_n_BS - by_d_BS)))
        share_B = expit(constant_B)
        return np.asarray(np.log(share_B + (1.0 - share_B) * np.exp(gamma_B * sum_BS)))

    @property
    def _spreads(self) -> tuple[float, float, float]:
        """The standard deviations of the mean exponent, of the ratio of exponents, and of the balance."""
        return EXPONENT_STD, RATIO_STD, BALANCE_STD
