"""The fit of the multi-power law to the curves of several runs: least summed Huber losses of logarithms. Pure.

All curves belong to one model, batch and corpus, and differ in the schedules of their learning rates only. Rates are
divided by the highest one, and sums of rates by their geometric mean, so that a fit does not depend on the scale of the
rates, which parametrizations and optimizers change.

The starts: for alpha, C, beta and gamma on a grid, the best L0, A and B follow from a linear problem with coefficients
of at least zero (NNLS). The best points of the grid are refined with analytic gradients.

What counts how much: every run counts as much as every other, and inside a run all its losses count the same. The
losses of a run have errors in common, from its seed and from what the law cannot describe, so a run with more losses
does not say more.

Few schedules determine all of C, beta and gamma: with a cosine, a small beta with a large B gives almost the same curve
as others, and what it predicts for abrupt drops is wrong. A weak prior holds beta and gamma near 0.5, where the authors
of the law start their fits, unless the losses show other values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from scipy.optimize import nnls

from foretrain.scaling.laws.curves.law import PARAMETERS, CurveLaw, curve, loss_drop
from foretrain.scaling.laws.curves.schedule import LEAST_RATE, Floats, Integers, Schedule, Terms
from foretrain.scaling.laws.huber import DELTA, Differences, delta_by_noise, refined

NUM_POINTS = 200
"""Losses of a curve that a fit uses; the others are averaged into them."""
GRID = {
    "alpha": (0.2, 0.4, 0.6, 0.9),
    "C": (10.0, 100.0, 1e3, 1e4),
    "beta": (0.2, 0.5, 1.0),
    "gamma": (0.0, 0.5, 1.0),
}
"""Where fits start, for rates and sums that are divided by their scales."""
NUM_REFINED = 6
"""Starts that are refined."""
PRIOR = {"beta": (np.log(0.5), 0.5), "gamma": (0.5, 0.25)}
"""Mean and standard deviation of the prior of the logarithm of beta, and of gamma."""
PRIOR_WEIGHT = 10.0
"""A parameter that is one standard deviation from its mean costs as much as this number of losses that are `delta`
off. More than one, since the errors of a run's losses are not independent."""
_JUMP = 0.1
"""Difference of the logarithms of the rates of neighbours that are not averaged."""
_LEAST_COEFFICIENT = 0.02
"""A coefficient that the linear problem puts at zero starts at this share of the loss: from much less, the minimizer
could not find that it is needed."""
_LEAST_LOSS = 1e-3
"""The minimizer may try parameters whose loss is not positive, and so has no logarithm. They count as this loss."""
_GREATEST_LOG = 200.0
"""The minimizer may also try parameters whose exponential is too large for floating-point numbers."""
_LOGARITHMIC = np.array([name != "gamma" for name in PARAMETERS])
"""Which parameters are positive, and so are fitted as logarithms."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The losses of a run at some of its steps.

    Raises ValueError if a loss is not a positive number, if a step is not one of the schedule or is in its warm-up,
    or if the steps do not rise.
    """

    rate_T: Floats
    """The learning rate of each step of the run."""
    step_N: Integers
    """Steps with a loss; 0 is the first one of the run. They are after its warm-up."""
    loss_N: Floats
    """Training or validation losses, in nats per token."""
    name: str = "a run"
    """For messages."""

    def __post_init__(self) -> None:
        step_N, loss_N = np.asarray(self.step_N), np.asarray(self.loss_N, dtype=float)
        if step_N.shape != loss_N.shape:
            raise ValueError(f"{self.name}: there are {step_N.size} steps and {loss_N.size} losses")
        bad = np.flatnonzero(~(np.isfinite(loss_N) & (loss_N > 0)))
        if len(bad):
            raise ValueError(
                f"{self.name}: the loss of step {step_N[bad[0]]} is {loss_N[bad[0]]:g}, which is not a positive "
                "number: leave that step out"
            )
        if (np.diff(step_N) <= 0).any():
            raise ValueError(f"{self.name}: the steps do not rise: sort them, and leave out what is there twice")
        object.__setattr__(self, "step_N", step_N)
        object.__setattr__(self, "loss_N", loss_N)
        try:
            self.schedule.check(step_N)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the learning rate."""
        return Schedule(self.rate_T)

    def thinned(self, num_points: int) -> tuple["Curve", Integers]:
        """A curve of about `num_points` losses, and how many losses of this one are averaged into each.

        A loss is averaged with its neighbours, and belongs to the middle one of their steps. Half of the points are
        spread evenly over the losses, half over the logarithm of the sum of the rates, since the loss falls fast at
        first, and the mean of a bent piece is not the loss in its middle. No jump of the rate is inside a piece.
        """
        if len(self.step_N) <= num_points:
            return self, np.ones(len(self.step_N), dtype=int)
        log_sum = np.log(self.schedule.sums[self.step_N])
        log_rate = np.log(np.maximum(self.schedule.rate_T[self.step_N], LEAST_RATE))
        spread = np.linspace(0.0, 1.0, len(self.step_N)) + (log_sum - log_sum[0]) / (log_sum[-1] - log_sum[0])
        starts = np.searchsorted(spread, np.linspace(0.0, 2.0, num_points, endpoint=False))
        starts = np.union1d(starts, np.flatnonzero(np.abs(np.diff(log_rate)) > _JUMP) + 1)
        count = np.diff(starts, append=len(self.step_N))
        means = np.add.reduceat(self.loss_N, starts) / count
        return replace(self, step_N=self.step_N[starts + (count - 1) // 2], loss_N=means), count


@dataclass(frozen=True)
class CurveFit:
    """A law of curves, and how well it fits."""

    law: CurveLaw
    objective: float
    """The sum of the Huber losses, with those of the prior."""
    delta: float
    """Where the Huber loss changes from a square to a line."""


def fit_curves(
    curves: Sequence[Curve],
    delta: float | None = DELTA,
    num_points: int | None = NUM_POINTS,
    num_starts: int = NUM_REFINED,
) -> CurveFit:
    """Fit the multi-power law to the curves of runs that differ in their schedules only.

    `delta`: where the Huber loss of a difference of logarithms changes from a square to a line; None: by the noise of
    the losses, which uses them better if their noise is larger than DELTA. `num_points`: the most losses of a curve
    that are used, the others being averaged into them; None: all. `num_starts`: how many starts are refined.

    Raises ValueError if the curves have fewer losses than the law has parameters, or cannot determine how the loss
    drops: if no rate changes between the warm-up and the last loss, or if all changes lead to the same rate.
    """
    _check(curves)
    thinned = [each.thinned(num_points or len(each.loss_N)) for each in curves]
    curves = [each for each, _ in thinned]
    terms, rate, total = _scaled(curves)
    log_loss_N = np.log(np.concatenate([each.loss_N for each in curves]))
    weight_N = np.concatenate([count / count.sum() for _, count in thinned]) * len(log_loss_N) / len(curves)
    first = DELTA if delta is None else delta
    starts = _starts(terms, log_loss_N, weight_N)[:num_starts]
    weight_N = np.concatenate([weight_N, np.full(len(PRIOR), PRIOR_WEIGHT)])
    minima = [refined(_differences(terms, log_loss_N, first), each, first, weight_N) for each in starts]
    log_theta_P, objective = min(minima, key=lambda minimum: minimum[1])
    if delta is None:
        first = delta_by_noise(np.abs(_log_curve(log_theta_P, terms)[0] - log_loss_N), len(PARAMETERS))
        log_theta_P, objective = refined(_differences(terms, log_loss_N, first), log_theta_P, first, weight_N)
    return CurveFit(_law(log_theta_P, rate, total), objective, first)


def relative_errors(law: CurveLaw, curve: Curve) -> Floats:
    """The error of the law at each loss (N) of a curve, relative to that loss: (predicted - measured) / measured.

    The mean error of a predicted curve is the mean of their absolute values over all its losses, which are those after
    the warm-up. The worst error is the greatest absolute value.
    """
    return law.loss(curve.schedule, curve.step_N) / curve.loss_N - 1.0


def _check(curves: Sequence[Curve]) -> None:
    num_losses = sum(len(each.loss_N) for each in curves)
    if num_losses < len(PARAMETERS):
        raise ValueError(f"{num_losses} losses cannot determine the {len(PARAMETERS)} parameters of a law of curves")
    empty = [each.name for each in curves if not len(each.loss_N)]
    if empty:
        raise ValueError(f"{', '.join(empty)}: there are no losses after the warm-up: leave the run out")
    rates = []
    for each in curves:
        changes = each.schedule.changes
        rates.append(each.schedule.rate_T[changes[changes <= each.step_N[-1]]])
    log_rates = np.log(np.maximum(np.concatenate(rates), LEAST_RATE))
    names = ", ".join(each.name for each in curves)
    if not len(log_rates):
        raise ValueError(
            f"{names}: no learning rate changes after the warm-up, so B, C, beta and gamma, which say how the loss "
            "drops if the rate does, are not determined: add a run whose rate decays"
        )
    if np.ptp(log_rates) < 1e-6:
        raise ValueError(
            f"{names}: all changes of the learning rate lead to the same rate, which determines C and gamma only "
            "together: add a run that decays in several steps, or to another rate"
        )


def _scaled(curves: Sequence[Curve]) -> tuple[Terms, float, float]:
    """The terms of all curves, divided by the highest rate and the mean sum of rates, and these two."""
    all_terms = [each.schedule.terms(each.step_N) for each in curves]
    rate = max(float(each.schedule.rate_T.max()) for each in curves)
    total = float(np.exp(np.mean(np.log(np.concatenate([terms.sum_N for terms in all_terms])))))
    first_points = np.cumsum([0, *(len(terms.sum_N) for terms in all_terms)])
    terms = Terms(
        np.concatenate([each.sum_N for each in all_terms]) / total,
        np.concatenate([each.point_M + first for each, first in zip(all_terms, first_points, strict=False)]),
        np.concatenate([each.drop_M for each in all_terms]) / rate,
        np.concatenate([each.log_rate_M for each in all_terms]) - np.log(rate),
        np.concatenate([each.log_since_M for each in all_terms]) - np.log(total),
    )
    return terms, rate, total


def _law(log_theta_P: Floats, rate: float, total: float) -> CurveLaw:
    """The law for rates and sums of rates as they are."""
    L0, A, alpha, B, C, beta, gamma = _values(log_theta_P).tolist()
    return CurveLaw(L0, A * total**alpha, alpha, B / rate, C * rate**gamma / total, beta, gamma)


def _values(log_theta_P: Floats) -> Floats:
    """The parameters, from gamma and the logarithms of the others."""
    exponent = np.where(_LOGARITHMIC, np.clip(log_theta_P, -_GREATEST_LOG, _GREATEST_LOG), 0.0)
    return np.where(_LOGARITHMIC, np.exp(exponent), log_theta_P)


def _log_curve(log_theta_P: Floats, terms: Terms) -> tuple[Floats, Floats]:
    """The logarithm of the loss (N), and its derivatives by gamma and the logarithms of the other parameters (N, P)."""
    theta_P = _values(log_theta_P)
    with np.errstate(over="ignore", invalid="ignore"):
        loss, derivatives = curve(theta_P, terms)
        derivatives = derivatives * np.where(_LOGARITHMIC, theta_P, 1.0)
    valid = np.isfinite(loss) & (loss > _LEAST_LOSS) & np.isfinite(derivatives).all(axis=1)
    loss = np.where(valid, loss, _LEAST_LOSS)
    return np.log(loss), np.where(valid[:, None], derivatives / loss[:, None], 0.0)


def _differences(terms: Terms, log_loss_N: Floats, delta: float) -> Differences:
    """A function that gives the differences of the logarithms of all losses, and then those of the prior."""
    place = [PARAMETERS.index(name) for name in PRIOR]
    mean, deviation = np.array(list(PRIOR.values())).T
    prior_derivatives = delta * np.eye(len(PARAMETERS))[place] / deviation[:, None]

    def differences(log_theta_P: Floats) -> tuple[Floats, Floats]:
        log_loss, derivatives = _log_curve(log_theta_P, terms)
        prior = delta * (log_theta_P[place] - mean) / deviation
        return np.concatenate([log_loss - log_loss_N, prior]), np.concatenate([derivatives, prior_derivatives])

    return differences


def _starts(terms: Terms, log_loss_N: Floats, weight_N: Floats) -> list[Floats]:
    """The points of the grid, those with the least squares of differences first."""
    found = []
    root_N = np.sqrt(weight_N)
    relative = (root_N * np.exp(-log_loss_N))[:, None]  # each loss is divided by itself: differences are relative ones
    least = _LEAST_COEFFICIENT * np.exp(log_loss_N.mean())
    for C, beta, gamma in product(GRID["C"], GRID["beta"], GRID["gamma"]):
        drop_N = loss_drop(np.array([C, beta, gamma]), terms)[0]
        for alpha in GRID["alpha"]:
            columns = relative * np.stack([np.ones_like(drop_N), terms.sum_N**-alpha, -drop_N], axis=1)
            coefficients, distance = nnls(columns, root_N)
            L0, A, B = np.maximum(coefficients, least)
            found.append((distance, np.array([*np.log([L0, A, alpha, B, C, beta]), gamma])))
    found.sort(key=lambda each: each[0])
    return [log_theta_P for _, log_theta_P in found]
