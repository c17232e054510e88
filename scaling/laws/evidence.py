"""What runs show of the loss of larger ones: a law, its noise, its intervals, and its back-test. Pure."""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from foretrain.scaling.laws.backtest import BackTest, backtest
from foretrain.scaling.laws.fit import Fit, fit
from foretrain.scaling.laws.forms import FORMS, Floats, Form
from foretrain.scaling.laws.intervals import Interval, Spread, bounds, loss_at, spread, surprise
from foretrain.scaling.laws.minimize import Minima, Pull, Quantity, minimize
from foretrain.scaling.laws.noise import SIGNIFICANCE, Replicates, lack_of_fit, replicates, sizes

LEVELS = (0.8, 0.9, 0.95)
"""Levels of the intervals of predictions and parameters."""
LEAST_FREEDOM = 3
"""With fewer replicates, the noise of a run is that of the runs around the law."""
UNTESTED_DISTANCE = 1.0
"""The largest extrapolation that needs no back-test of the same distance, relative to the span of compute of the runs:
from runs over a factor of 100 to at most 100 times the largest."""


USUAL_STD = 0.25
"""How far exponents are from the usual ones, as the standard deviation of their logarithm: twice that of the published
ones."""


@dataclass(frozen=True)
class Prediction:
    """The loss that runs predict for a size, in nats per token."""

    loss: float
    """The most likely one if exponents are seldom far from the usual ones, and if a constant that the runs do not need
    is seldom there."""
    intervals: tuple[Interval, ...]
    """From the runs alone. For the loss of one run, of LEVELS: the uncertainty of the law, and the noise of the run."""
    mean_intervals: tuple[Interval, ...]
    """For the mean of many runs: the uncertainty of the law alone."""

    def interval(self, level: float) -> Interval:
        """The interval of one run at a level of LEVELS."""
        return next(each for each in self.intervals if each.level == level)


def aicc(found: Fit) -> float:
    """Akaike's criterion for few runs (Hurvich and Tsai, 1989), for normal noise; infinite without enough sizes."""
    residual_R = found.problem.residual(found.theta_P[None])[0]
    num, num_parameters = found.num_sizes, len(found.theta_P) + 1  # one is the variance of the noise
    if num - num_parameters - 1 <= 0:
        return float("inf")
    variance = max(float(np.mean(residual_R**2)), 1e-16)
    correction = 2.0 * num_parameters * (num_parameters + 1) / (num - num_parameters - 1)
    return len(residual_R) * float(np.log(variance)) + 2.0 * num_parameters + correction


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
    backtest: BackTest
    compute_range: tuple[float, float]
    """FLOPs of the smallest and of the largest run."""

    @classmethod
    def of(cls, form: Form, x_RV: Floats, loss_R: Floats, compute_R: Floats) -> "Evidence":
        """Fit a law, and test it on its own runs. `compute_R`: the FLOPs of each run.

        Raises ValueError if the runs cannot determine the law.
        """
        x_RV, loss_R = np.asarray(x_RV, dtype=float), np.asarray(loss_R, dtype=float)
        found = fit(form, x_RV, loss_R)
        log_x_RV, log_loss_R = found.problem.log_x_BRV[0], found.problem.log_loss_BR[0]
        noise = replicates(log_x_RV, log_loss_R)
        residual_R = found.problem.residual(found.theta_P[None])[0]
        misfit = lack_of_fit(log_x_RV, log_loss_R, residual_R, len(form.parameters))
        if misfit is not None and misfit < SIGNIFICANCE:
            # Replicates say nothing of the distance of a wrong law: each size counts as one run.
            means = sizes(log_x_RV, log_loss_R)
            found = fit(form, np.exp(means.log_x_SV) * found.scale_V, np.exp(means.log_loss_S))
        test = backtest(form, x_RV, loss_R, compute_R)
        return cls(found, noise, misfit, test, (float(np.min(compute_R)), float(np.max(compute_R))))

    @property
    def is_misspecified(self) -> bool:
        """Whether the law is farther from the runs than their noise explains."""
        return self.misfit is not None and self.misfit < SIGNIFICANCE

    @property
    def has_spare_sizes(self) -> bool:
        """Whether there are more sizes than parameters, so that the runs show how far the law is from them."""
        return self.fit.num_sizes > len(self.fit.form.parameters)

    @cached_property
    def _spread(self) -> Spread:
        return spread(self.fit.problem, self.fit.theta_P[None])

    @cached_property
    def _minima(self) -> Minima:
        objective_B = np.array([self.fit.objective])
        return Minima(self.fit.theta_P[None], objective_B, objective_B)

    @cached_property
    def _usual(self) -> Floats:
        """The parameters that are most likely if exponents are near the usual ones too."""
        variance_B = self._spread.variance_B
        if not np.isfinite(variance_B[0]):
            return self._minima.theta_BP
        pulls = (
            Pull(partial(self.fit.value, name), variance_B / USUAL_STD**2, np.array([np.log(value)]))
            for name, value in self.fit.form.usual
        )
        return minimize(self.fit.problem, self._minima.theta_BP, *pulls).theta_BP

    def _likely(self, x_NV: Floats) -> float:
        """The logarithm of the most likely loss: the mean over the law and the simpler one, weighted by AICc."""
        with_constant = float(self.fit.form.log_loss(self._usual[0], self.fit.log_x(x_NV))[0])
        if self._simpler is None:
            return with_constant
        other = float(np.log(self._simpler.loss(x_NV)[0]))
        scores = np.array([aicc(self.fit), aicc(self._simpler)])
        if not np.isfinite(scores).all():  # too few sizes to show that a constant is needed
            return other
        weights = np.exp(-0.5 * (scores - scores.min()))
        return float(weights @ [with_constant, other] / weights.sum())

    @cached_property
    def _simpler(self) -> Fit | None:
        """The fit of the law without its constant to the same runs."""
        name = self.fit.form.simpler
        if name is None:
            return None
        x_NV = np.exp(self.fit.problem.log_x_BRV[0]) * self.fit.scale_V
        return fit(FORMS.get(name), x_NV, np.exp(self.fit.problem.log_loss_BR[0]))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the variance of the runs around the law."""
        return float(self._spread.freedom_B[0])

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

    def unidentified(self, level: float = 0.95) -> dict[str, Interval]:
        """The parameters that the runs do not bound on both sides, and their intervals."""
        found = {name: self.parameter(name, level) for name in self.fit.form.parameters}
        return {name: each for name, each in found.items() if each.low == 0 or not np.isfinite(each.high)}

    def predict(self, x_V: Floats, num_runs: int = 1) -> Prediction:
        """The loss at a size with the variables `x_V`. `num_runs`: the intervals are for the mean of as many runs."""
        quantity = loss_at(self.fit.form, self.fit.log_x(np.asarray(x_V, dtype=float)[None]))
        best = float(quantity(self._minima.theta_BP)[0][0])
        own_B = np.array([self.run_std**2 / num_runs])
        means = tuple(self._interval(quantity, best, level, None) for level in LEVELS)
        likely = float(np.exp(self._likely(np.asarray(x_V, dtype=float)[None])))
        return Prediction(
            likely if likely in means[0] else float(np.exp(best)),  # else the runs contradict what is usual
            tuple(self._interval(quantity, best, level, own_B) for level in LEVELS),
            means,
        )

    def surprise(self, x_V: Floats, loss: float) -> float:
        """How far a measured loss is from the prediction, in standard deviations of a normal distribution."""
        quantity = loss_at(self.fit.form, self.fit.log_x(np.asarray(x_V, dtype=float)[None]))
        own_B = np.array([self.run_std**2])
        found_B = surprise(self.fit.problem, self._minima, self._spread, quantity, np.array([np.log(loss)]), own_B)
        return float(found_B[0]) / self.backtest.widening

    def intervals_of(self, quantity: Quantity) -> tuple[Interval, ...]:
        """The intervals, of LEVELS, of what a law gives. `quantity`: its logarithm, as a function of the parameters.

        An end is 0 or infinite if the runs do not bound it. The intervals are widened as those of predictions are.
        """
        best = float(quantity(self._minima.theta_BP)[0][0])
        return tuple(self._interval(quantity, best, level, None) for level in LEVELS)

    def _interval(self, quantity: Quantity, best: float, level: float, own_B: Floats | None) -> Interval:
        """The interval around the logarithm of a loss, widened by what the back-test found."""
        low_B, high_B = bounds(self.fit.problem, self._minima, self._spread, quantity, level, own_B)
        low, high = (best + self.backtest.widening * (float(end_B[0]) - best) for end_B in (low_B, high_B))
        return Interval(level, float(np.exp(low)), float(np.exp(high)))

    @property
    def reach(self) -> float:
        """The largest compute that the runs support, over that of the largest run."""
        low, high = self.compute_range
        return float((high / low) ** max(UNTESTED_DISTANCE, self.backtest.largest_distance))

    def objections(self, compute: float) -> list[str]:
        """Why the runs do not support a prediction at this compute, each with what to do; empty if they do."""
        found = []
        _, high = self.compute_range
        if compute <= high:
            found.append(
                f"the target ({compute:.3g} FLOPs) is not larger than the largest run ({high:.3g}): predict a larger "
                "one, or leave the larger runs out"
            )
        if not self.has_spare_sizes:
            found.append(
                f"{self.fit.num_sizes} sizes determine the {len(self.fit.form.parameters)} parameters of "
                f"{self.fit.form.formula} exactly and leave nothing to judge it by: add sizes, or use a law with fewer "
                "parameters"
            )
        if compute / high > self.reach:
            found.append(
                f"the target has {compute / high:.3g} times the compute of the largest run, and the back-test of these "
                f"runs supports {self.reach:.3g} times: add runs of up to {compute / self.reach:.2g} FLOPs"
            )
        return found
