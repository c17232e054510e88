"""The fit of a law to a table of runs: the least sum of Huber losses of the logarithms, from many starts. Pure.

As in arXiv 2203.15556, appendix D.3, with what arXiv 2404.10102 found: the Huber losses are summed, since the
minimizer stops too early if they are averaged, and its tolerances are tight.

The starts: for exponents on a grid, the best coefficients follow from a linear problem with coefficients of at least
zero (NNLS), because the loss is linear in them. The best of these points are then refined with analytic gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import nnls

from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.huber import DELTA, delta_by_noise, huber_sum, refined

GRID = (0.03, 0.08, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
"""Exponents at which fits start."""
NUM_REFINED = 8
"""Starts that are refined."""
_LEAST_COEFFICIENT = 0.02
"""A coefficient that the linear problem puts at zero starts at this share of the loss. With much less, the objective
would not depend on it, and the minimizer could not find that it is needed."""


@dataclass(frozen=True)
class Fit:
    """The parameters of a law, and how well it fits."""

    form: Form
    theta_P: Floats
    """The logarithms of the coefficients, and the exponents; variables are divided by `scale_V` first."""
    scale_V: Floats
    """The geometric mean of each variable."""
    objective: float
    """The sum of the Huber losses."""
    delta: float
    """Where the Huber loss changes from a square to a line."""

    def log_loss(self, x_NV: Floats) -> Floats:
        """The logarithm of the loss of runs with the variables `x_NV`."""
        return self.form.log_loss(self.theta_P, np.log(x_NV / self.scale_V))

    def loss(self, x_NV: Floats) -> Floats:
        """The loss of runs with the variables `x_NV`, in nats per token."""
        return np.asarray(np.exp(self.log_loss(x_NV)))

    @property
    def values(self) -> dict[str, float]:
        """The parameters by name, for variables as they are."""
        num_terms = len(self.form.terms)
        exponents = self.theta_P[num_terms:]
        log_coefficients = self.theta_P[:num_terms] + self.form.powers(exponents, np.log(self.scale_V)[None])[0]
        values = np.concatenate([np.exp(log_coefficients), exponents])
        return dict(zip(self.form.parameters, values.tolist(), strict=True))


def fit(form: Form, x_NV: Floats, loss_N: Floats, delta: float | None = DELTA) -> Fit:
    """Fit a law to runs with variables `x_NV`, in the order of `form.variables`, and losses in nats per token.

    `delta`: where the Huber loss of a difference of logarithms changes from a square to a line; None: by the noise of
    the runs, which uses them better if their noise is larger than DELTA. Raises ValueError if the runs have fewer
    sizes than the law has parameters, if a variable is the same in all of them, or if a value is not a positive number.
    """
    x_NV, loss_N = np.asarray(x_NV, dtype=float), np.asarray(loss_N, dtype=float)
    if x_NV.shape != (len(loss_N), len(form.variables)):
        raise ValueError(f"{form.formula} needs {' and '.join(form.variables)} of each run, and one loss")
    num_sizes = len(np.unique(x_NV, axis=0))
    if num_sizes < len(form.parameters) or (np.ptp(x_NV, axis=0) == 0).any():
        raise ValueError(
            f"runs of {num_sizes} sizes, in which each of {', '.join(form.variables)} must vary, cannot determine the "
            f"{len(form.parameters)} parameters of {form.formula}: add runs, or use a law with fewer parameters"
        )
    if not (np.isfinite(x_NV).all() and np.isfinite(loss_N).all() and (x_NV > 0).all() and (loss_N > 0).all()):
        raise ValueError("a size or a loss of a run is not a positive number: leave that run out")
    scale_V = np.exp(np.log(x_NV).mean(axis=0))
    log_x_NV, log_loss_N = np.log(x_NV / scale_V), np.log(loss_N)
    first = DELTA if delta is None else delta
    starts = _starts(form, log_x_NV, log_loss_N, first)
    theta_P, value = _best(form, starts, log_x_NV, log_loss_N, first)
    if delta is not None:
        return Fit(form, theta_P, scale_V, value, delta)
    delta = delta_by_noise(np.abs(form.log_loss(theta_P, log_x_NV) - log_loss_N), len(theta_P))
    theta_P, value = _best(form, [theta_P, *starts[:2]], log_x_NV, log_loss_N, delta)
    return Fit(form, theta_P, scale_V, value, delta)


def objective(form: Form, theta_P: Floats, log_x_NV: Floats, log_loss_N: Floats, delta: float) -> tuple[float, Floats]:
    """The sum of the Huber losses, and its derivatives by the parameters."""
    log_loss, derivatives = form.gradient(theta_P, log_x_NV)
    return huber_sum(log_loss - log_loss_N, derivatives, delta)


def _best(
    form: Form, starts: Sequence[Floats], log_x_NV: Floats, log_loss_N: Floats, delta: float
) -> tuple[Floats, float]:
    """The parameters with the least objective among the minima that the starts lead to, and that objective."""

    def differences(theta_P: Floats) -> tuple[Floats, Floats]:
        log_loss, derivatives = form.gradient(theta_P, log_x_NV)
        return log_loss - log_loss_N, derivatives

    minima = [refined(differences, start, delta) for start in starts]
    return min(minima, key=lambda minimum: minimum[1])


def _starts(form: Form, log_x_NV: Floats, log_loss_N: Floats, delta: float) -> list[Floats]:
    """The best points of the grid, by the sum of the Huber losses."""
    found = []
    for exponents in product(GRID, repeat=len(form.exponents)):
        values = np.exp(-form.powers(np.array(exponents), log_x_NV))
        # Each run is divided by its loss, so that differences are relative ones.
        relative = values / np.exp(log_loss_N)[:, None]
        coefficients, _ = nnls(relative, np.ones(len(log_loss_N)))
        coefficients = np.maximum(coefficients, _LEAST_COEFFICIENT * np.exp(log_loss_N.mean()))
        theta_P = np.concatenate([np.log(coefficients), exponents])
        found.append((objective(form, theta_P, log_x_NV, log_loss_N, delta)[0], theta_P))
    found.sort(key=lambda each: each[0])
    return [theta_P for _, theta_P in found[:NUM_REFINED]]
