"""What runs show of the loss of larger ones: a law, its noise, its intervals, and its back-test. Pure."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foretrain.scaling.laws.backtest import BackTest, backtest
from foretrain.scaling.laws.fit import Fit, fit, run_weights
from foretrain.scaling.laws.forms import Floats, Form
from foretrain.scaling.laws.intervals import Interval, Spread, bounds, loss_at, spread
from foretrain.scaling.laws.minimize import Minima, Quantity
from foretrain.scaling.laws.noise import SIGNIFICANCE, Replicates, lack_of_fit, replicates, sizes
from foretrain.scaling.laws.posterior import Posterior, posterior

LEVELS = (0.8, 0.9, 0.95)
"""Levels of the intervals of predictions and parameters."""
LEAST_FREEDOM = 3
"""With fewer replicates, the noise of a run is that of the runs around the law."""
TESTED_RATIO = 300.0
"""The largest extrapolation in compute that needs no back-test. Of the published losses in docs/prediction.md, 98 % of
those of the largest table are inside of their intervals at 90 % at 100 times the compute, also where the runs span
little; at 300 times and more, all six are that three other tables leave (`python -m benchmarks.tables --ratio 300`)."""
LEAST_OTHERS = 3
"""Runs that a law needs with another value of a variable than the most common one. One run may have gone wrong, and of
two that disagree, nothing shows which one did: models that end in their warm-up look almost like much smaller ones."""
WIDEST = 0.25
"""A prediction whose interval at 90 % is wider than this share of the loss is refused: it says no more than that the
loss will be somewhere between that of the runs and that of much larger ones."""


@dataclass(frozen=True)
class Prediction:
    """The loss that runs predict for a size, in nats per token."""

    loss: float
    """The median."""
    intervals: tuple[Interval, ...]
    """For the loss of one run, of LEVELS: the uncertainty of the law, its discrepancy, and the noise of the run."""
    mean_intervals: tuple[Interval, ...]
    """For the mean of many runs: without their noise."""

    def interval(self, level: float) -> Interval:
        """The interval of one run at a level of LEVELS."""
        return next(each for each in self.intervals if each.level == level)


@dataclass(frozen=True)
class Evidence:
    """A law that is fitted to runs, and how far it can be trusted."""

    fit: Fit
    """To the runs; if the law is misspecified, to the means of each size."""
    noise: Replicates
    """The noise of seeds."""
    misfit: float | None
    """The probability that noise alone is as far from the law as the runs are; None: without replicates, it is not
    known."""
    x_RV: Floats
    """The variables of each run."""
    loss_R: Floats
    compute_R: Floats
    """The FLOPs of each run."""
    weight_R: Floats
    """How much each run counts in predictions."""
    other_backtest: BackTest | None = None
    """Takes the place of the back-test of these runs; None: none does."""

    @classmethod
    def of(cls, form: Form, x_RV: Floats, loss_R: Floats, compute_R: Floats) -> "Evidence":
        """Fit a law. `compute_R`: the FLOPs of each run.

        Raises ValueError if the runs cannot determine the law.
        """
        x_RV, loss_R = np.asarray(x_RV, dtype=float), np.asarray(loss_R, dtype=float)
        found = fit(form, x_RV, loss_R)
        log_x_RV, log_loss_R = found.problem.log_x_BRV[0], found.problem.log_loss_BR[0]
        noise, weight_R = replicates(log_x_RV, log_loss_R), run_weights(found)
        residual_R = found.problem.residual(found.theta_P[None])[0]
        misfit = lack_of_fit(log_x_RV, log_loss_R, residual_R, len(form.parameters))
        if misfit is not None and misfit < SIGNIFICANCE:
            # Replicates say nothing of the distance of a wrong law: each size counts as one run.
            means = sizes(log_x_RV, log_loss_R)
            found = fit(form, np.exp(means.log_x_SV) * found.scale_V, np.exp(means.log_loss_S))
        return cls(found, noise, misfit, x_RV, loss_R, np.asarray(compute_R, dtype=float), weight_R)

    @cached_property
    def backtest(self) -> BackTest:
        """What predictions of the larger runs from the smaller ones show, by the law alone."""
        if self.other_backtest is not None:
            return self.other_backtest
        return backtest(self.fit.form, self.x_RV, self.loss_R, self.compute_R)

    @property
    def compute_range(self) -> tuple[float, float]:
        """FLOPs of the smallest and of the largest run."""
        return float(self.compute_R.min()), float(self.compute_R.max())

    @cached_property
    def _spread(self) -> Spread:
        return spread(self.fit.problem, self.fit.theta_P[None])

    @cached_property
    def _minima(self) -> Minima:
        objective_B = np.array([self.fit.objective])
        return Minima(self.fit.theta_P[None], objective_B, objective_B)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the variance of the runs around the law, and at least 1: what is usual counts too."""
        return max(float(self._spread.freedom_B[0]), 1.0)

    @property
    def run_std(self) -> float:
        """The standard deviation of the logarithm of the loss of one run, by its seed."""
        if self.noise.freedom >= LEAST_FREEDOM:
            return self.noise.std
        return float(np.sqrt(self._spread.variance_B[0]))

    def parameter(self, name: str, level: float) -> Interval:
        """The interval of a parameter; its ends are 0 or infinite where the runs do not bound it."""
        low_B, high_B = bounds(
            self.fit.problem, self._minima, self._spread, lambda theta_BP: self.fit.value(name, theta_BP), level
        )
        return Interval(level, float(np.exp(low_B[0])), float(np.exp(high_B[0])))

    def predict(self, x_V: Floats, num_runs: int = 1) -> Prediction:
        """The loss at a size with the variables `x_V`. `num_runs`: the intervals are for the mean of as many runs."""
        found = self._posterior(np.asarray(x_V, dtype=float))
        intervals, means = (
            tuple(
                Interval(level, *(found.quantile(0.5 + 0.5 * side * level, num) for side in (-1, 1)))
                for level in LEVELS
            )
            for num in (num_runs, np.inf)
        )
        return Prediction(found.quantile(0.5), intervals, means)

    def if_right(self, x_V: Floats) -> tuple[Interval, ...]:
        """The intervals of one run, of LEVELS, if the law has no discrepancy: profile likelihoods (`intervals.py`).

        An end is 0 or infinite if the runs do not bound it.
        """
        quantity = loss_at(self.fit.form, self.fit.log_x(np.asarray(x_V, dtype=float)[None]))
        own_B = np.array([self.run_std**2])
        found = (bounds(self.fit.problem, self._minima, self._spread, quantity, level, own_B) for level in LEVELS)
        return tuple(
            Interval(level, float(np.exp(low_B[0])), float(np.exp(high_B[0])))
            for level, (low_B, high_B) in zip(LEVELS, found, strict=True)
        )

    def _posterior(self, x_V: Floats) -> Posterior:
        """What the runs show of the loss at a size."""
        log_x_RV, log_loss_R = np.log(self.x_RV), np.log(self.loss_R)
        of = sizes(log_x_RV, log_loss_R, self.weight_R)
        squares = float((self.weight_R * (log_loss_R - of.log_loss_S[of.place_R]) ** 2).sum())
        return posterior(self.fit.form, of, squares, np.log(x_V), num_runs=len(log_loss_R))

    def intervals_of(self, quantity: Quantity) -> tuple[Interval, ...]:
        """The intervals, of LEVELS, of what a law gives. `quantity`: its logarithm, as a function of the parameters.

        An end is 0 or infinite if the runs do not bound it. They are widened by what the back-test found.
        """
        best = float(quantity(self._minima.theta_BP)[0][0])
        return tuple(self._interval(quantity, best, level) for level in LEVELS)

    def _interval(self, quantity: Quantity, best: float, level: float) -> Interval:
        """The interval around the logarithm of a quantity, widened by what the back-test found."""
        low_B, high_B = bounds(self.fit.problem, self._minima, self._spread, quantity, level)
        low, high = (best + self.backtest.widening * (float(end_B[0]) - best) for end_B in (low_B, high_B))
        return Interval(level, float(np.exp(low)), float(np.exp(high)))

    @property
    def reach(self) -> float:
        """The largest compute that the runs support, over that of the largest run.

        That is TESTED_RATIO, or as far as a back-test of these runs reached, relative to the span of its fit.
        """
        low, high = self.compute_range
        return max(TESTED_RATIO, float((high / low) ** max(1.0, self.backtest.largest_distance)))

    def objections(self, compute: float) -> list[str]:
        """Why the runs do not support a prediction at this compute, each with what to do; empty if they do."""
        found = []
        _, high = self.compute_range
        if compute <= high:
            found.append(
                f"the target ({compute:.3g} FLOPs) is not larger than the largest run ({high:.3g}): predict a larger "
                "one, or leave the larger runs out"
            )
        if self.fit.num_sizes <= len(self.fit.form.parameters):
            found.append(
                f"{self.fit.num_sizes} sizes determine the {len(self.fit.form.parameters)} parameters of "
                f"{self.fit.form.formula} exactly, and leave nothing to judge it by: add sizes, or use a law with "
                "fewer parameters"
            )
        found.extend(self._few_others())
        if compute / high > TESTED_RATIO and compute / high > self.reach:
            found.append(
                f"the target has {compute / high:.3g} times the compute of the largest run, and these runs support "
                f"{self.reach:.3g} times: add runs of up to {compute / self.reach:.2g} FLOPs"
            )
        return found

    def _few_others(self) -> list[str]:
        """The objection to a variable that is almost always the same, if the law has others; empty if none is."""
        names = self.fit.form.variables
        others = [len(column) - np.unique(column, return_counts=True)[1].max() for column in self.x_RV.T]
        return [
            f"all runs but {num} have the same {name}, and too few show whether those went well: add runs with other "
            f"values of {name}, at least {LEAST_OTHERS}"
            for name, num in zip(names, others, strict=True)
            if len(names) > 1 and num < LEAST_OTHERS
        ]

    def too_wide(self, found: Prediction) -> list[str]:
        """The objection to a prediction that leaves the loss open, with what to do; empty if there is none."""
        interval = found.interval(0.9)
        width = (interval.high - interval.low) / found.loss
        if width <= WIDEST:
            return []
        return [
            f"the runs leave the loss open by {100 * width:.0f} % (90 % interval: {interval.low:.4g} to "
            f"{interval.high:.4g}), and at most {100 * WIDEST:.0f} % are of use: add sizes, or larger ones"
        ]
