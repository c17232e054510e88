"""Intervals of the parameters of a law from fits to resampled runs. Pure.

A bootstrap over runs, as in arXiv 2404.10102: each sample draws as many runs with replacement, and the law is fitted to
it. The ends of an interval are quantiles of what the samples give. With a dozen runs these intervals are too narrow,
since a sample has fewer different runs than there are; predictions use profile likelihoods (`intervals.py`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from foretrain.scaling.laws.fit import Fit
from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.intervals import Interval
from foretrain.scaling.laws.minimize import Problems, Quantity, minimize

NUM_SAMPLES = 1000
MAX_DRAWS = 100
"""How often a sample is drawn again that has too few sizes for the law."""


@dataclass(frozen=True)
class Bootstrap:
    """Fits of one law to samples of its runs."""

    fit: Fit
    """To all runs."""
    theta_BP: Floats
    """The parameters of each sample."""

    def interval(self, quantity: Quantity, level: float) -> Interval:
        """The interval of what a law gives. `quantity`: its logarithm, as a function of the parameters (B, P)."""
        tail = 0.5 * (1.0 - level)
        low, high = np.quantile(quantity(self.theta_BP)[0], [tail, 1.0 - tail], method="nearest")
        return Interval(level, float(np.exp(low)), float(np.exp(high)))

    def parameter(self, name: str, level: float) -> Interval:
        """The interval of a parameter, for variables as they are."""
        return self.interval(lambda theta_BP: self.fit.value(name, theta_BP), level)

    @cached_property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.theta_BP)


def bootstrap(found: Fit, num_samples: int = NUM_SAMPLES, seed: int = 0) -> Bootstrap | None:
    """Fit the law of `found` to samples of its runs.

    None if the law has as many parameters as there are sizes, or almost, so that samples seldom determine it.
    """
    if found.num_sizes <= len(found.form.parameters):
        return None
    weight_BR = samples(found, num_samples, np.random.default_rng(seed))
    if weight_BR is None:
        return None
    one = found.problem
    problems = Problems(
        found.form,
        one.log_x_BRV,
        np.broadcast_to(one.log_loss_BR, weight_BR.shape),
        weight_BR,
        np.full(num_samples, found.delta),
    )
    return Bootstrap(found, minimize(problems, np.repeat(found.theta_P[None], num_samples, axis=0)).theta_BP)


def samples(found: Fit, num_samples: int, random: np.random.Generator) -> Floats | None:
    """How often each sample has each run (B, R). Each has at least as many sizes as the law has parameters.

    None if MAX_DRAWS draws do not give as many samples.
    """
    log_x_RV = found.problem.log_x_BRV[0]
    _, size_R = np.unique(log_x_RV, axis=0, return_inverse=True)
    is_of_SR = np.equal.outer(np.arange(size_R.max() + 1), size_R.reshape(-1))
    num_runs = len(log_x_RV)
    even_R = np.full(num_runs, 1.0 / num_runs)
    kept = np.empty((0, num_runs))
    for _ in range(MAX_DRAWS):
        weight_BR = random.multinomial(num_runs, even_R, size=num_samples).astype(float)
        num_sizes_B = (weight_BR @ is_of_SR.T > 0).sum(axis=1)
        kept = np.concatenate([kept, weight_BR[num_sizes_B >= len(found.form.parameters)]])[:num_samples]
        if len(kept) == num_samples:
            return kept
    return None
