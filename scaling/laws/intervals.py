"""Intervals of the predictions and the parameters of laws, by profile likelihood. Pure.

The profile of a quantity is the least objective among all laws that give it a certain value. The quantity's interval
are the values at which the profile exceeds the least objective by no more than noise explains: 2 * excess / variance is
at most the square of a quantile of Student's t distribution with as many degrees of freedom as there are runs beyond
the parameters. For linear laws with normal noise this is the exact interval of linear regression; for laws that are not
linear it is what stays right when a parameter is hardly determined (Bates and Watts, Nonlinear Regression Analysis,
1988, chapter 6). For the Huber loss, the variance is that of an M-estimator (Huber, Robust Statistics, 1981, 7.6).

To find the laws of the profile without constraints, each fit gets one more term, which pulls the quantity to a target:
where the sum is least, no other law with this value of the quantity has a smaller objective. For the interval of the
loss of one more run, the term is that run.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.minimize import Minima, Problems, Pull, Quantity, minimize

TOLERANCE = 1e-3
"""How near to its limit the excess of an end of an interval must be, as a share of the limit."""
MAX_ROUNDS = 25
"""Targets that are tried for an end of an interval."""
UNBOUNDED = 30.0
"""A quantity that may be so far, in its logarithm, from its best value is not bounded by the runs."""


@dataclass(frozen=True)
class Interval:
    """The values of a quantity that the runs allow."""

    level: float
    """The share of such intervals that hold the true value."""
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Spread:
    """How far runs are from their laws."""

    variance_B: Floats
    """The variance of the logarithm of the loss of one run, as it enters the uncertainty of a fit."""
    freedom_B: Floats
    """Degrees of freedom of the variance."""


def spread(problems: Problems, theta_BP: Floats) -> Spread:
    """The variance of the runs around their laws. Infinite where there are no more runs than parameters."""
    size_BR, delta_B1 = np.abs(problems.residual(theta_BP)), problems.delta_B[:, None]
    num_runs_B, num_parameters = problems.weight_BR.sum(1), theta_BP.shape[1]
    freedom_B = num_runs_B - num_parameters
    inside_B = (problems.weight_BR * (size_BR <= delta_B1)).sum(1) / num_runs_B
    squares_B = (problems.weight_BR * np.minimum(size_BR, delta_B1) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correction_B = 1.0 + num_parameters / num_runs_B * (1.0 - inside_B) / inside_B
        variance_B = correction_B * squares_B / freedom_B / inside_B
    return Spread(np.where(freedom_B > 0, variance_B, np.inf), freedom_B)


def loss_at(form: Form, log_x_BV: Floats) -> Quantity:
    """The logarithm of the loss of one size for each problem, or of the same for all (1, V)."""

    def quantity(theta_BP: Floats) -> tuple[Floats, Floats]:
        log_loss_B1, slope_B1P = form.gradient(theta_BP, log_x_BV[:, None])
        return log_loss_B1[:, 0], slope_B1P[:, 0]

    return quantity


def bounds(
    problems: Problems,
    minima: Minima,
    spread: Spread,
    quantity: Quantity,
    level: float,
    own_variance_B: Floats | None = None,
) -> tuple[Floats, Floats]:
    """The lower and upper ends of the interval of a quantity for each problem (B), (B).

    `own_variance_B`: the variance of a new observation of the quantity, such as the loss of one run. None: the interval
    is that of the quantity itself. An end is infinite if the runs do not bound the quantity on that side.
    """
    sides = (_end(problems, minima, spread, quantity, level, own_variance_B, side) for side in (-1.0, 1.0))
    low_B, high_B = sides
    return low_B, high_B


def surprise(
    problems: Problems,
    minima: Minima,
    spread: Spread,
    quantity: Quantity,
    observed_B: Floats,
    own_variance_B: Floats,
) -> Floats:
    """How far observations are from what the runs predict (B), in standard deviations of a normal distribution.

    If the law is right, this has a standard normal distribution. `own_variance_B`: the variance of the observations.
    """
    pull = Pull(quantity, _finite(spread.variance_B) / _finite(own_variance_B), observed_B)
    found = minimize(problems, minima.theta_BP, pull)
    size_B = np.sqrt(2.0 * np.maximum(found.total_B - minima.objective_B, 0.0) / _finite(spread.variance_B))
    tail_B = stats.norm.isf(np.maximum(stats.t.sf(size_B, np.maximum(spread.freedom_B, 1e-9)), 1e-300))
    sign_B = np.sign(observed_B - quantity(minima.theta_BP)[0])
    return np.where(np.isfinite(spread.variance_B), sign_B * tail_B, 0.0)


def _finite(variance_B: Floats) -> Floats:
    return np.where(np.isfinite(variance_B), np.maximum(variance_B, 1e-16), 1.0)


def _end(
    problems: Problems,
    minima: Minima,
    spread: Spread,
    quantity: Quantity,
    level: float,
    own_variance_B: Floats | None,
    side: float,
) -> Floats:
    """One end of the interval of each problem: the target at which the excess reaches its limit, by false position."""
    best_B, slope_BP = quantity(minima.theta_BP)
    limit_B = stats.t.ppf(0.5 + 0.5 * level, np.maximum(spread.freedom_B, 1e-9))
    is_open_B = ~np.isfinite(spread.variance_B) | ~np.isfinite(limit_B)
    variance_B = _finite(spread.variance_B)
    limit_B = np.where(is_open_B, 1.0, limit_B)
    share_B = _leverage(problems, minima.theta_BP, slope_BP)
    own_B = np.maximum(share_B, 1e-8) if own_variance_B is None else own_variance_B / variance_B
    own_B = np.where(is_open_B, 1.0, np.maximum(own_B, 1e-8))
    # The first target is nearer than the end of a linear law: from afar, a fit may end in another minimum.
    target_B = best_B + side * 0.5 * limit_B * np.sqrt(variance_B * (share_B + own_B))
    inner_B, outer_B = best_B.copy(), np.full_like(best_B, np.nan)
    inner_excess_B, outer_excess_B = -limit_B, np.full_like(best_B, np.nan)
    end_B, is_done_B, inner_BP = target_B.copy(), is_open_B.copy(), minima.theta_BP
    for _ in range(MAX_ROUNDS):
        found = minimize(problems, inner_BP, Pull(quantity, 1.0 / own_B, target_B), max_steps=100)
        reached_B = found.objective_B if own_variance_B is None else found.total_B
        excess_B = np.sqrt(2.0 * np.maximum(reached_B - minima.objective_B, 0.0) / variance_B) - limit_B
        value_B = quantity(found.theta_BP)[0] if own_variance_B is None else target_B
        end_B = np.where(is_done_B, end_B, value_B)
        is_far_B = ~is_done_B & (np.abs(value_B - best_B) > UNBOUNDED)
        end_B = np.where(is_far_B, side * np.inf, end_B)
        is_done_B = is_done_B | is_far_B | (np.abs(excess_B) < TOLERANCE * limit_B)
        if is_done_B.all():
            break
        is_inner_B = excess_B < 0.0
        inner_BP = np.where(is_inner_B[:, None], found.theta_BP, inner_BP)
        inner_B, inner_excess_B = _where(is_inner_B, (target_B, excess_B), (inner_B, inner_excess_B))
        outer_B, outer_excess_B = _where(is_inner_B, (outer_B, outer_excess_B), (target_B, excess_B))
        with np.errstate(invalid="ignore", divide="ignore"):
            between_B = inner_B - inner_excess_B * (outer_B - inner_B) / (outer_excess_B - inner_excess_B)
        growth_B = np.clip(1.05 * limit_B / np.maximum(inner_excess_B + limit_B, 1e-3 * limit_B), 1.05, 2.0)
        beyond_B = np.where(inner_B == best_B, target_B, best_B + growth_B * (inner_B - best_B))
        target_B = np.where(is_done_B, target_B, np.where(np.isnan(outer_B), beyond_B, between_B))
    return np.where(is_open_B, side * np.inf, end_B)


def _where(is_first_B: Floats, first: tuple[Floats, ...], second: tuple[Floats, ...]) -> tuple[Floats, ...]:
    return tuple(np.where(is_first_B, left_B, right_B) for left_B, right_B in zip(first, second, strict=True))


def _leverage(problems: Problems, theta_BP: Floats, slope_BP: Floats) -> Floats:
    """The variance of a quantity by the linear law at a minimum, for runs with a variance of 1 (B)."""
    _, slope_BRP = problems.form.gradient(theta_BP, problems.log_x_BRV)
    curvature_BPP = np.einsum("brp,brq,br->bpq", slope_BRP, slope_BRP, problems.weight_BR)
    ridge_B = 1e-9 * np.einsum("bpp->b", curvature_BPP)
    curvature_BPP = curvature_BPP + ridge_B[:, None, None] * np.eye(theta_BP.shape[1])
    return np.asarray(np.einsum("bp,bp->b", slope_BP, np.linalg.solve(curvature_BPP, slope_BP[..., None])[..., 0]))
