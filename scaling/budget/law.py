"""A law of parameters and tokens, its compute-optimal split, and how certain both are. Pure.

Training costs C = k N D FLOPs. k = 6 is the usual estimate; a real model has a k of its own, its FLOPs for each token
and parameter, which changes little with its size. L(N, D) = E + A / N^alpha + B / D^beta is least at a given C where
(arXiv 2203.15556, equation 4)

    N = (alpha A / (beta B))^(1 / (alpha + beta)) * (C / k)^(beta / (alpha + beta)),    D = C / (k N).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from foretrain.scaling.laws.evidence import Evidence
from foretrain.scaling.laws.fit import Fit
from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.intervals import Interval
from foretrain.scaling.laws.minimize import Quantity

FLOPS_PER_PARAM = 6.0
"""FLOPs of training for each token and parameter, as papers estimate them."""


@dataclass(frozen=True)
class Law:
    """L(N, D) = e + a / N^alpha + b / D^beta, in nats per token. All numbers are positive."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Self:
        """The law with these parameters, by the names of the form `chinchilla`."""
        return cls(*(values[name] for name in ("E", "A", "B", "alpha", "beta")))

    def loss(self, num_params: float, num_tokens: float) -> float:
        """The loss of a model of this size after that many tokens."""
        return self.e + self.a * num_params**-self.alpha + self.b * num_tokens**-self.beta

    def optimum(self, flops: float, flops_per_param: float = FLOPS_PER_PARAM) -> tuple[float, float]:
        """Parameters and tokens with the least loss for these FLOPs, if both may be any number."""
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1.0 / (self.alpha + self.beta))
        product = flops / flops_per_param
        num_params = scale * product ** (self.beta / (self.alpha + self.beta))
        return num_params, product / num_params

    def tokens_for(self, num_params: float, loss: float) -> float | None:
        """Tokens after which a model of this size has that loss; None if it never has."""
        rest = loss - self.e - self.a * num_params**-self.alpha
        if rest <= 0:
            return None
        log_tokens = math.log(self.b / rest) / self.beta
        return math.exp(log_tokens) if log_tokens < math.log(1e300) else None


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal split of a budget, if parameters and tokens may be any number."""

    num_params: float
    num_tokens: float
    loss: float
    flops_per_param: float
    """FLOPs of training for each token and parameter, with which it is computed."""
    intervals: Mapping[str, tuple[Interval, ...]]
    """Intervals of `num_params`, `num_tokens`, `tokens_per_param` and `loss`, by name; empty if none are known."""

    @property
    def tokens_per_param(self) -> float:
        """Tokens for each parameter."""
        return self.num_tokens / self.num_params


def optimum_of(law: Law, evidence: Evidence | None, flops: float, flops_per_param: float = FLOPS_PER_PARAM) -> Optimum:
    """The optimum of a law for a budget, with its intervals if there is evidence for the law."""
    num_params, num_tokens = law.optimum(flops, flops_per_param)
    found: dict[str, tuple[Interval, ...]] = {}
    if evidence is not None:
        split = Split(evidence.fit, flops, flops_per_param)
        for name, quantity in split.quantities.items():
            found[name] = evidence.intervals_of(quantity)
    return Optimum(num_params, num_tokens, law.loss(num_params, num_tokens), flops_per_param, found)


@dataclass(frozen=True)
class Split:
    """The optimum of a budget as a function of the parameters of a fitted law, for the profile likelihood."""

    fit: Fit
    flops: float
    flops_per_param: float

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The logarithms of what `Optimum` has, by its names."""
        return {
            "num_params": self.log_params,
            "num_tokens": self.log_tokens,
            "tokens_per_param": self.log_tokens_per_param,
            "loss": self.log_loss,
        }

    def log_params(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of N at the optimum of each problem (B), and its derivatives (B, P)."""
        log_n_B, slope_BP = self._scaled(theta_BP)
        return log_n_B + math.log(self._scale("N")), slope_BP

    def log_tokens(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of D at the optimum of each problem (B), and its derivatives (B, P)."""
        log_n_B, slope_BP = self.log_params(theta_BP)
        return math.log(self.flops / self.flops_per_param) - log_n_B, -slope_BP

    def log_tokens_per_param(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of D / N at the optimum of each problem (B), and its derivatives (B, P)."""
        log_n_B, slope_BP = self.log_params(theta_BP)
        return math.log(self.flops / self.flops_per_param) - 2.0 * log_n_B, -2.0 * slope_BP

    def log_loss(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of the loss at the optimum of each problem (B), and its derivatives (B, P).

        The optimum moves with the parameters, but at a minimum this changes nothing to first order.
        """
        assert self.fit.form.variables == ("N", "D"), self.fit.form.variables
        log_n_B, _ = self._scaled(theta_BP)
        log_x_BV = np.stack([log_n_B, self._log_product - log_n_B], axis=1)
        log_loss_B1, slope_B1P = self.fit.form.gradient(theta_BP, log_x_BV[:, None])
        return log_loss_B1[:, 0], slope_B1P[:, 0]

    def _scaled(self, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of N at the optimum, divided by the fit's scale of N, and its derivatives."""
        place = {name: self.fit.form.parameters.index(name) for name in ("A", "B", "alpha", "beta")}
        log_alpha_B, log_beta_B = theta_BP[:, place["alpha"]], theta_BP[:, place["beta"]]
        alpha_B, beta_B = np.exp(log_alpha_B), np.exp(log_beta_B)
        sum_B, product = alpha_B + beta_B, self._log_product
        log_n_B = log_alpha_B - log_beta_B + theta_BP[:, place["A"]] - theta_BP[:, place["B"]] + beta_B * product
        log_n_B = log_n_B / sum_B
        slope_BP = np.zeros_like(theta_BP)
        slope_BP[:, place["A"]] = 1.0 / sum_B
        slope_BP[:, place["B"]] = -1.0 / sum_B
        slope_BP[:, place["alpha"]] = (1.0 - log_n_B * alpha_B) / sum_B
        slope_BP[:, place["beta"]] = (beta_B * product - 1.0 - log_n_B * beta_B) / sum_B
        return log_n_B, slope_BP

    @property
    def _log_product(self) -> float:
        """The logarithm of N D, for variables that are divided by the fit's scales."""
        return math.log(self.flops / self.flops_per_param / self._scale("N") / self._scale("D"))

    def _scale(self, variable: str) -> float:
        return float(self.fit.scale_V[self.fit.form.variables.index(variable)])
