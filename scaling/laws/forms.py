"""Forms of laws: the loss of a run as a sum of power laws of its size. Pure.

A form is a sum of terms c * x1^-p1 * x2^-p2 ..., each with a coefficient c > 0 and an exponent p > 0 for each variable
x. A term without variables is a constant, the loss that no size removes. Fits use the logarithm of the loss, which is
the logarithm of a sum of exponentials (arXiv 2203.15556, equation 3).

Shapes: P parameters, R runs, V variables, T terms. `theta_P` are the logarithms of the coefficients, and then those of
the exponents. Arrays may have leading axes, which are broadcast: many problems are then computed at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from foretrain.registry import Registry

Floats = np.ndarray


@dataclass(frozen=True)
class Term:
    """A power law: coefficient * product of variable^-exponent."""

    coefficient: str
    """The name of its coefficient, which is positive."""
    exponents: tuple[tuple[str, str], ...] = ()
    """The name of each exponent, which is positive, and its variable."""


@dataclass(frozen=True)
class Form:
    """A sum of terms. Its parameters are the coefficients of all terms, and then their exponents."""

    name: str
    formula: str
    """For people."""
    terms: tuple[Term, ...]
    usual: Mapping[str, float] = field(default_factory=dict)
    """Exponents that published fits have found, by name."""
    usual_std: float = 0.5
    """How far exponents are from the usual ones, as the standard deviation of their logarithm."""
    interacts: bool = False
    """Whether it is E + A / N^alpha + B / D^beta, of which predictions know that its terms do not add up exactly; see
    `beliefs.Interacting`."""

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

    @cached_property
    def _powers(self) -> Floats:
        """1.0 where a term has an exponent of a variable (T, exponents, V)."""
        powers_TEV = np.zeros((len(self.terms), len(self.exponents), len(self.variables)))
        for number, term in enumerate(self.terms):
            for name, variable in term.exponents:
                powers_TEV[number, self.exponents.index(name), self.variables.index(variable)] = 1.0
        return powers_TEV

    def powers(self, log_x_RV: Floats) -> Floats:
        """What each exponent is multiplied by in the logarithm of each term, and subtracted (R, T, exponents)."""
        return np.asarray(np.einsum("...rv,tev->...rte", log_x_RV, self._powers))

    def split(self, theta_P: Floats) -> tuple[Floats, Floats]:
        """The logarithms of the coefficients (..., T), and the exponents."""
        num_terms = len(self.terms)
        return theta_P[..., :num_terms], np.exp(theta_P[..., num_terms:])

    def log_loss(self, theta_P: Floats, log_x_RV: Floats) -> Floats:
        """The logarithm of the loss of each run (..., R). `log_x_RV`: the logarithms of the variables."""
        return self.gradient(theta_P, log_x_RV)[0]

    def gradient(self, theta_P: Floats, log_x_RV: Floats) -> tuple[Floats, Floats]:
        """The logarithm of the loss of each run (..., R), and its derivatives by the parameters (..., R, P)."""
        log_coefficients_T, exponents_E = self.split(theta_P)
        powers_RTE = self.powers(log_x_RV) * exponents_E[..., None, None, :]
        log_terms_RT = log_coefficients_T[..., None, :] - powers_RTE.sum(-1)
        largest_R = log_terms_RT.max(-1)
        shares_RT = np.exp(log_terms_RT - largest_R[..., None])
        sums_R = shares_RT.sum(-1)
        shares_RT /= sums_R[..., None]
        by_exponents_RE = -np.einsum("...rt,...rte->...re", shares_RT, powers_RTE)
        return largest_R + np.log(sums_R), np.concatenate([shares_RT, by_exponents_RE], axis=-1)


FORMS: Registry[Form] = Registry("law", "the law")
"""The laws by name. The usual exponents of N and D are the geometric means of arXiv 2404.10102 (0.348, 0.366), which
corrects 2203.15556, of 2305.16264 (0.353, 0.353) and of 2404.06395 (0.29, 0.23); they spread by 0.1 and 0.25. Those of
C are more different: 0.05 in 2001.08361, 0.074 in 2304.03208, 0.16 if N and D of 2404.10102 grow as the root of C."""

FORMS.register(
    "chinchilla",
    Form(
        "chinchilla",
        "L(N, D) = E + A / N^alpha + B / D^beta",
        (Term("E"), Term("A", (("alpha", "N"),)), Term("B", (("beta", "D"),))),
        usual={"alpha": 0.33, "beta": 0.31},
        usual_std=0.25,
        interacts=True,
    ),
)
FORMS.register(
    "compute",
    Form("compute", "L(C) = E + a / C^b", (Term("E"), Term("a", (("b", "C"),))), usual={"b": 0.1}, usual_std=0.5),
)
FORMS.register(
    "compute_no_e",
    Form("compute_no_e", "L(C) = a / C^b", (Term("a", (("b", "C"),)),), usual={"b": 0.05}, usual_std=0.5),
)
