"""Predictions of a law for runs that it was not fitted to, from runs with less compute. Pure.

Each cut is a fit to all runs with at most a certain compute; each case is a larger size that a cut predicts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from foretrain.scaling.laws.fit import check_runs, fit_by_noise, table
from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.intervals import loss_at, spread, surprise
from foretrain.scaling.laws.minimize import Minima
from foretrain.scaling.laws.noise import sizes

MAX_CUTS = 16
"""Fits of a back-test; with more sizes, the cuts are spread over them."""
LEAST_RATIO = 1.5
"""Predictions of runs with less than this times the compute of the largest run of a fit are not counted."""
SIGNIFICANCE = 0.05
"""A law is taken as wrong if intervals that are right would miss by as much with a smaller probability."""
RATIOS = (2, 4, 8, 16, 32, 64)
"""Where reports divide the cases, by the compute of the target over that of the largest run of the fit."""


@dataclass(frozen=True)
class Case:
    """One size that a cut predicts."""

    cut: int
    """The number of the fit."""
    ratio: float
    """The compute of the size over that of the largest run of the fit."""
    distance: float
    """The logarithm of `ratio` over that of the span of compute of the fit's runs."""
    error: float
    """The logarithm of the predicted loss over the measured one."""
    surprise: float
    """The error in standard deviations of its prediction."""


@dataclass(frozen=True)
class BackTest:
    """What the back-test of a law shows."""

    cases: tuple[Case, ...]

    @property
    def num_cuts(self) -> int:
        """Number of fits."""
        return len({case.cut for case in self.cases})

    @property
    def largest_distance(self) -> float:
        """The largest extrapolation that was tried, relative to the span of compute of its fit; 0 without cases."""
        return max((case.distance for case in self.cases), default=0.0)

    @property
    def widening(self) -> float:
        """By how much intervals of the law alone are too narrow: 1, unless the errors are larger than noise explains.

        The cases of a cut depend on one fit, so each cut counts once.
        """
        if not self.cases:
            return 1.0
        cuts: dict[int, list[float]] = {}
        for case in self.cases:
            cuts.setdefault(case.cut, []).append(case.surprise**2)
        squares = [float(np.mean(values)) for values in cuts.values()]
        if sum(squares) <= stats.chi2.isf(SIGNIFICANCE, len(squares)):
            return 1.0
        return max(1.0, float(np.sqrt(np.mean(squares))))

    def between(self, low: float, high: float) -> "BackTest":
        """The cases with ratios in [low, high)."""
        return BackTest(tuple(case for case in self.cases if low <= case.ratio < high))

    def coverage(self, level: float) -> float:
        """The share of cases inside the interval of a level; nan without cases."""
        limit = stats.norm.ppf(0.5 + 0.5 * level)
        return float(np.mean([abs(case.surprise) <= limit for case in self.cases])) if self.cases else float("nan")

    @property
    def median_error(self) -> float:
        """The median absolute error; nan without cases."""
        return float(np.median([abs(case.error) for case in self.cases])) if self.cases else float("nan")

    @property
    def worst_error(self) -> float:
        """The largest absolute error; nan without cases."""
        return max((abs(case.error) for case in self.cases), default=float("nan"))


def backtest(form: Form, x_RV: Floats, loss_R: Floats, compute_R: Floats) -> BackTest:
    """Back-test a law on its own runs. `compute_R`: the FLOPs of each run."""
    order_R = np.argsort(compute_R, kind="stable")
    x_RV, loss_R, compute_R = x_RV[order_R], loss_R[order_R], compute_R[order_R]
    log_x_RV, log_loss_R = np.log(x_RV / np.exp(np.log(x_RV).mean(axis=0))), np.log(loss_R)
    edges = _edges(form, x_RV, loss_R, compute_R)
    if not edges:
        return BackTest(())
    weight_BR = np.array([compute_R <= edge for edge in edges], dtype=float)
    problems, minima = fit_by_noise(table(form, log_x_RV, log_loss_R[None], weight_BR))
    found = spread(problems, minima.theta_BP)
    cases: list[Case] = []
    for cut, edge in enumerate(edges):
        larger_R = compute_R > LEAST_RATIO * edge
        of = sizes(log_x_RV[larger_R], log_loss_R[larger_R])
        num = len(of.count_S)
        quantity = loss_at(form, of.log_x_SV)
        ones = problems.only(cut).repeated(num)
        same = Minima(*(np.repeat(each[cut : cut + 1], num, axis=0) for each in vars(minima).values()))
        of_cut = type(found)(*(np.repeat(each[cut : cut + 1], num, axis=0) for each in vars(found).values()))
        surprise_S = surprise(ones, same, of_cut, quantity, of.log_loss_S, of_cut.variance_B / of.count_S)
        error_S = quantity(same.theta_BP)[0] - of.log_loss_S
        compute_S = np.bincount(of.place_R, weights=compute_R[larger_R]) / of.count_S
        span = np.log(edge / compute_R[0])
        for compute, error, z in zip(compute_S, error_S, surprise_S, strict=True):
            ratio = float(compute / edge)
            cases.append(Case(cut, ratio, float(np.log(ratio) / span), float(error), float(z)))
    return BackTest(tuple(cases))


def _edges(form: Form, x_RV: Floats, loss_R: Floats, compute_R: Floats) -> list[float]:
    """The compute of the largest run of each cut: its runs can determine the law, and at least one size is larger."""
    edges = []
    for edge in np.unique(compute_R):
        is_in_R = compute_R <= edge
        if not (compute_R > LEAST_RATIO * edge).any():
            break
        if len(np.unique(x_RV[is_in_R], axis=0)) <= len(form.parameters):  # one more, which shows the noise
            continue
        try:
            check_runs(form, x_RV[is_in_R], loss_R[is_in_R])
        except ValueError:
            continue
        edges.append(float(edge))
    if len(edges) > MAX_CUTS:
        edges = [edges[int(place)] for place in np.linspace(0, len(edges) - 1, MAX_CUTS)]
    return edges
