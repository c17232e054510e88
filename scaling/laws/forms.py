"""Forms of laws: the loss of a run as a sum of power laws of its size. Pure.

A form is a sum of terms c * x1^-p1 * x2^-p2 ..., each with a coefficient c > 0 and an exponent p for each variable x. A
term without variables is a constant, the loss that no size removes. Fits use the logarithm of the loss, which is the
logarithm of a sum of exponentials (arXiv 2203.15556, equation 3).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from foretrain.registry import Registry

Floats = np.ndarray


@dataclass(frozen=True)
class Term:
    """A power law: coefficient * product of variable^-exponent."""

    coefficient: str
    """The name of its coefficient, which is positive."""
    exponents: tuple[tuple[str, str], ...] = ()
    """The name of each exponent, and its variable."""


@dataclass(frozen=True)
class Form:
    """A sum of terms. Its parameters are the coefficients of all terms, and then their exponents."""

    name: str
    formula: str
    """For people."""
    terms: tuple[Term, ...]

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The variables, such as N (parameters), D (tokens) and C (FLOPs)."""
        return tuple(dict.fromkeys(variable for term in self.terms for _, variable in term.exponents))

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        """The names of the coefficients, in the order of the terms."""
        return tuple(term.coefficient for term in self.terms)

    @cached_property
    def exponents(self) -> tuple[str, ...]:
        """The names of the exponents, in the order of the terms."""
        return tuple(dict.fromkeys(name for term in self.terms for name, _ in term.exponents))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters."""
        return self.coefficients + self.exponents

    @property
    def constant(self) -> str | None:
        """The coefficient of the term without variables; None if there is none."""
        return next((term.coefficient for term in self.terms if not term.exponents), None)

    def log_terms(self, theta_P: Floats, log_x_NV: Floats) -> Floats:
        """The logarithm of each term (runs, terms).

        `theta_P`: the logarithms of the coefficients, and the exponents. `log_x_NV`: the logarithms of the variables.
        """
        return theta_P[: len(self.terms)] - self.powers(theta_P[len(self.terms) :], log_x_NV)

    def powers(self, exponents: Floats, log_x_NV: Floats) -> Floats:
        """The sum of exponent * log variable of each term (runs, terms)."""
        result = np.zeros((len(log_x_NV), len(self.terms)))
        for column, term in enumerate(self.terms):
            for name, variable in term.exponents:
                exponent = exponents[self.exponents.index(name)]
                result[:, column] += exponent * log_x_NV[:, self.variables.index(variable)]
        return result

    def log_loss(self, theta_P: Floats, log_x_NV: Floats) -> Floats:
        """The logarithm of the loss of each run."""
        return np.asarray(logsumexp(self.log_terms(theta_P, log_x_NV), axis=1))

    def gradient(self, theta_P: Floats, log_x_NV: Floats) -> tuple[Floats, Floats]:
        """The logarithm of the loss of each run (runs), and its derivatives by the parameters (runs, parameters)."""
        log_terms = self.log_terms(theta_P, log_x_NV)
        log_loss = np.asarray(logsumexp(log_terms, axis=1))
        share = np.exp(log_terms - log_loss[:, None])
        derivatives = np.zeros((len(log_x_NV), len(theta_P)))
        derivatives[:, : len(self.terms)] = share
        for column, term in enumerate(self.terms):
            for name, variable in term.exponents:
                place = len(self.terms) + self.exponents.index(name)
                derivatives[:, place] -= share[:, column] * log_x_NV[:, self.variables.index(variable)]
        return log_loss, derivatives


FORMS: Registry[Form] = Registry("law", "the law")
"""The laws by name."""

FORMS.register(
    "chinchilla",
    Form(
        "chinchilla",
        "L(N, D) = E + A / N^alpha + B / D^beta",
        (Term("E"), Term("A", (("alpha", "N"),)), Term("B", (("beta", "D"),))),
    ),
)
FORMS.register("compute", Form("compute", "L(C) = E + a / C^b", (Term("E"), Term("a", (("b", "C"),)))))
FORMS.register("compute_no_e", Form("compute_no_e", "L(C) = a / C^b", (Term("a", (("b", "C"),)),)))
