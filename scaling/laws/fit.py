"""The fit of a law to tables of runs: the least sum of Huber losses of the logarithms, from many starts. Pure.

As in arXiv 2203.15556, appendix D.3, with what arXiv 2404.10102 found: the Huber losses are summed, since a minimizer
stops too early if they are averaged, and its tolerances are tight.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.huber import DELTA, MAD_TO_STD
from foretrain.scaling.laws.minimize import Minima, Problems, minimize

TUNING = 2.0
"""Standard deviations at which the Huber loss changes if it is chosen by the noise. With the usual 1.345, the intervals
of laws that are fitted to a dozen runs hold the truth in 77 instead of 80 %: the noise that so few runs show is too
uncertain to leave any of them out."""
GRID = (0.05, 0.12, 0.25, 0.45, 0.8)
"""Exponents at which fits start, each with the same part of the loss in each term."""
NUM_REFINED = 6
"""Starts that are refined."""
LEAST_SHARE = 1e-6
"""A coefficient that is not needed gets this share of the loss, and not zero, from which no interval can start."""
SMOOTHING = (0.1, 0.01)
"""Values of delta with which a fit begins: with a small one, the objective has a kink in each run that the law goes
through, at which the minimizer stops."""
TAIL_FREEDOM = 4.0
"""Degrees of freedom of Student's distribution, which is that of runs of which a few are wrong (Lange, Little and
Taylor, Robust statistical modeling using the t distribution, 1989)."""
LEAST_SPARE = 3
"""With fewer sizes beyond the parameters, runs far from a law show nothing: a law goes through too many of them."""
NUM_ROUNDS = 4
"""How often delta is chosen by the noise, which depends on the fit."""


@dataclass(frozen=True)
class Fit:
    """The parameters of a law, and how well it fits."""

    form: Form
    theta_P: Floats
    """The logarithms of the coefficients and of the exponents; variables are divided by `scale_V` first."""
    scale_V: Floats
    """The geometric mean of each variable."""
    objective: float
    """The sum of the Huber losses."""
    delta: float
    """Where the Huber loss changes from a square to a line."""
    problem: Problems
    """The runs, as the one problem that was solved."""

    @property
    def num_sizes(self) -> int:
        """Number of different sizes among the runs."""
        return len(np.unique(self.problem.log_x_BRV[0], axis=0))

    def log_x(self, x_NV: Floats) -> Floats:
        """The logarithms of variables, as the form takes them."""
        return np.asarray(np.log(np.asarray(x_NV, dtype=float) / self.scale_V))

    def loss(self, x_NV: Floats) -> Floats:
        """The loss of runs with the variables `x_NV`, in nats per token."""
        return np.asarray(np.exp(self.form.log_loss(self.theta_P, self.log_x(x_NV))))

    def value(self, name: str, theta_BP: Floats) -> tuple[Floats, Floats]:
        """The logarithm of a parameter, for variables as they are (B), and its derivatives by `theta_BP` (B, P)."""
        place = self.form.parameters.index(name)
        log_value_B = theta_BP[:, place].copy()
        slope_BP = np.zeros_like(theta_BP)
        slope_BP[:, place] = 1.0
        if place < len(self.form.terms):  # variables that are not divided by `scale_V` change the coefficient
            _, exponents_BE = self.form.split(theta_BP)
            for exponent, variable in self.form.terms[place].exponents:
                number = self.form.exponents.index(exponent)
                change_B = exponents_BE[:, number] * np.log(self.scale_V[self.form.variables.index(variable)])
                log_value_B += change_B
                slope_BP[:, len(self.form.terms) + number] += change_B
        return log_value_B, slope_BP

    @property
    def values(self) -> dict[str, float]:
        """The parameters by name, for variables as they are."""
        return {name: float(np.exp(self.value(name, self.theta_P[None])[0][0])) for name in self.form.parameters}


def fit(form: Form, x_NV: Floats, loss_N: Floats, delta: float | None = None) -> Fit:
    """Fit a law to runs with variables `x_NV`, in the order of `form.variables`, and losses in nats per token.

    `delta`: where the Huber loss of a difference of logarithms changes from a square to a line; None: by the noise of
    the runs, which uses them better than DELTA if their noise is larger. Raises ValueError if the runs have fewer
    sizes than the law has parameters, if a variable is the same in all of them, or if a value is not a positive number.
    """
    x_NV, loss_N = np.asarray(x_NV, dtype=float), np.asarray(loss_N, dtype=float)
    check_runs(form, x_NV, loss_N)
    scale_V = np.exp(np.log(x_NV).mean(axis=0))
    problem = table(form, np.log(x_NV / scale_V), np.log(loss_N)[None])
    problem, minima = fit_by_noise(problem) if delta is None else (with_delta(problem, delta), None)
    minima = minima or best(problem)
    objective = float(minima.objective_B[0])
    return Fit(form, minima.theta_BP[0], scale_V, objective, float(problem.delta_B[0]), problem)


def run_weights(found: Fit) -> Floats:
    """How much each run should count where noise is taken as normal (R): less, the farther it is from the law."""
    residual_R = found.problem.residual(found.theta_P[None])[0]
    if found.num_sizes < len(found.form.parameters) + LEAST_SPARE:
        return np.ones_like(residual_R)
    return np.asarray((TAIL_FREEDOM + 1.0) / (TAIL_FREEDOM + (TUNING * residual_R / found.delta) ** 2))


def check_runs(form: Form, x_NV: Floats, loss_N: Floats) -> None:
    """Raise ValueError if runs cannot determine the parameters of a law."""
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


def table(form: Form, log_x_RV: Floats, log_loss_BR: Floats, weight_BR: Floats | None = None) -> Problems:
    """Problems with the same sizes of runs, for least squares."""
    weight_BR = np.ones_like(log_loss_BR) if weight_BR is None else weight_BR
    log_loss_BR = np.broadcast_to(log_loss_BR, weight_BR.shape)
    return Problems(form, log_x_RV[None], log_loss_BR, weight_BR, np.full(len(weight_BR), np.inf))


def with_delta(problems: Problems, delta: float | Floats) -> Problems:
    """The problems with another place where the Huber loss changes."""
    delta_B = np.broadcast_to(np.asarray(delta, dtype=float), problems.delta_B.shape)
    return Problems(problems.form, problems.log_x_BRV, problems.log_loss_BR, problems.weight_BR, delta_B)


def best(problems: Problems) -> Minima:
    """The least minimum of each problem among those that many starts lead to."""
    starts_SP = _starts(problems.form)
    count_B1 = problems.weight_BR.sum(1, keepdims=True)
    mean_B = (problems.log_loss_BR * problems.weight_BR).sum(1) / count_B1[:, 0]
    theta_BSP = np.repeat(starts_SP[None], len(mean_B), axis=0)
    theta_BSP[..., : len(problems.form.terms)] += mean_B[:, None, None]
    for delta in SMOOTHING:
        smooth = with_delta(problems, np.maximum(problems.delta_B, delta))
        theta_BSP = _refined(smooth, theta_BSP, max_steps=60)
    return _least(problems, theta_BSP)


def fit_by_noise(problems: Problems) -> tuple[Problems, Minima]:
    """The problems with the delta that their noise asks for, and their minima."""
    minima = best(problems)
    for _ in range(NUM_ROUNDS):
        problems = with_delta(problems, np.maximum(DELTA, TUNING * noise(problems, minima.theta_BP)))
        minima = minimize(problems, _positive(problems, minima.theta_BP))
    theta_BP = _positive(problems, minima.theta_BP)
    objective_B = problems.objective(problems.residual(theta_BP))
    return problems, Minima(theta_BP, objective_B, objective_B)


def _positive(problems: Problems, theta_BP: Floats) -> Floats:
    """Parameters of which each coefficient is at least LEAST_SHARE of the loss at the geometric mean of the sizes."""
    mean_B = np.average(problems.log_loss_BR, axis=1, weights=problems.weight_BR)
    least_BP = np.full_like(theta_BP, -np.inf)
    least_BP[:, : len(problems.form.terms)] = mean_B[:, None] + np.log(LEAST_SHARE)
    return np.maximum(theta_BP, least_BP)


def noise(problems: Problems, theta_BP: Floats) -> Floats:
    """The standard deviation of the logarithms of the losses from a law, by their median distance, robustly (B)."""
    size_BR = np.sort(
        np.where(problems.weight_BR > 0, np.abs(problems.residual(theta_BP)), np.nan), axis=1
    )  # nan: last
    # A law goes almost through as many runs as it has parameters, which show nothing of the noise.
    size_BR[:, : len(problems.form.parameters)] = np.nan
    has_any_B = np.isfinite(size_BR).any(axis=1)
    size_BR[~has_any_B] = 0.0
    return np.asarray(MAD_TO_STD * np.nanmedian(size_BR, axis=1))


def _starts(form: Form) -> Floats:
    """Parameters at which fits start, for losses with a mean logarithm of zero (starts, P)."""
    exponents_SE = np.log(np.array(list(product(GRID, repeat=len(form.exponents)))))
    coefficients_ST = np.full((len(exponents_SE), len(form.terms)), -np.log(len(form.terms)))
    return np.concatenate([coefficients_ST, exponents_SE], axis=1)


def _refined(problems: Problems, theta_BSP: Floats, max_steps: int) -> Floats:
    """The NUM_REFINED best minima of each problem (B, S, P)."""
    num_problems, num_starts, num_parameters = theta_BSP.shape
    found = minimize(problems.repeated(num_starts), theta_BSP.reshape(-1, num_parameters), max_steps=max_steps)
    order_BS = found.objective_B.reshape(num_problems, num_starts).argsort(axis=1)[:, :NUM_REFINED]
    theta_BSP = found.theta_BP.reshape(num_problems, num_starts, num_parameters)
    return np.take_along_axis(theta_BSP, order_BS[..., None], axis=1)


def _least(problems: Problems, theta_BSP: Floats) -> Minima:
    """The minimum of each problem that is the least from any of the starts."""
    num_problems, num_starts, num_parameters = theta_BSP.shape
    found = minimize(problems.repeated(num_starts), theta_BSP.reshape(-1, num_parameters))
    places_B = found.objective_B.reshape(num_problems, num_starts).argmin(axis=1)
    places_B += num_starts * np.arange(num_problems)
    return Minima(*(array[places_B] for array in (found.theta_BP, found.objective_B, found.total_B)))
