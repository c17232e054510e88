"""Intervals of laws hold the truth as often as they say, at 100 times the compute too."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from foretrain.scaling.laws.fit import fit, fit_by_noise, table
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.intervals import bounds, loss_at, spread, surprise
from foretrain.scaling.laws.minimize import Minima, Problems

NUM_TRIALS = 600
COVERS = {0.8: (0.76, 0.84), 0.95: (0.93, 0.97)}
"""Levels of intervals, and the shares of trials in which they may hold the truth."""


class Study:
    """Tables from one law with noise, and the fits to them."""

    def __init__(
        self, name: str, x_RV: Floats, law: Callable[[Floats], Floats], noise: float, num_trials: int = NUM_TRIALS
    ) -> None:
        self.form, self.law, self.noise, self.x_RV = FORMS.get(name), law, noise, x_RV
        self.random = np.random.default_rng(0)
        self.scale_V = np.exp(np.log(x_RV).mean(axis=0))
        log_loss_BR = np.log(law(x_RV)) + noise * self.random.standard_normal((num_trials, len(x_RV)))
        self.problems, self.minima = fit_by_noise(table(self.form, np.log(x_RV / self.scale_V), log_loss_BR))
        self.spread = spread(self.problems, self.minima.theta_BP)

    @property
    def fits(self) -> tuple[Problems, Minima]:
        return self.problems, self.minima

    def far(self, times: float) -> Floats:
        """The largest size, times a number in each variable."""
        return self.x_RV.max(axis=0, keepdims=True) * times


def by_compute(noise: float = 0.004, num_trials: int = NUM_TRIALS) -> Study:
    x_RV = np.geomspace(1e15, 1e18, 12)[:, None]
    return Study("compute", x_RV, lambda x: 1.8 + 1000 / x[:, 0] ** 0.18, noise, num_trials)


def without_e() -> Study:
    return Study("compute_no_e", np.geomspace(1e15, 1e18, 8)[:, None], lambda x: 30 / x[:, 0] ** 0.05, 0.004)


def by_both(num_trials: int = 300) -> Study:
    params = np.repeat(np.geomspace(1e6, 1e8, 6), 4)
    x_RV = np.stack([params, params * np.tile([5, 12, 30, 80], 6)], axis=1)

    def law(x_RV: Floats) -> Floats:
        return 1.8 + 480 / x_RV[:, 0] ** 0.35 + 2000 / x_RV[:, 1] ** 0.37

    return Study("chinchilla", x_RV, law, 0.004, num_trials)


STUDIES = {"compute": by_compute, "compute_no_e": without_e, "chinchilla": by_both}
TRUTH = {
    "compute": {"E": 1.8, "a": 1000, "b": 0.18},
    "compute_no_e": {"a": 30, "b": 0.05},
    "chinchilla": {"E": 1.8, "A": 480, "B": 2000, "alpha": 0.35, "beta": 0.37},
}


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest) -> Study:
    return STUDIES[request.param]()


@pytest.mark.parametrize("level", COVERS)
def test_intervals_of_predictions_at_100_times_the_compute_hold_the_truth_as_often_as_they_say(
    study: Study, level: float
) -> None:
    far = study.far(10.0 if study.form.name == "chinchilla" else 100.0)
    quantity = loss_at(study.form, np.log(far / study.scale_V))
    truth = float(np.log(study.law(far))[0])
    low_B, high_B = bounds(*study.fits, study.spread, quantity, level)
    covered = np.mean((low_B <= truth) & (truth <= high_B))
    assert COVERS[level][0] <= covered <= COVERS[level][1], "the law's own value"
    runs_B = truth + study.noise * study.random.standard_normal(len(low_B))
    low_B, high_B = bounds(*study.fits, study.spread, quantity, level, study.spread.variance_B)
    covered = np.mean((low_B <= runs_B) & (runs_B <= high_B))
    assert COVERS[level][0] <= covered <= COVERS[level][1], "the loss of one more run"
    # The surprise of a run is inside of a level's limits exactly if the run is inside of its interval.
    surprise_B = surprise(*study.fits, study.spread, quantity, runs_B, study.spread.variance_B)
    is_inside_B = np.abs(surprise_B) <= stats.norm.ppf(0.5 + 0.5 * level)
    assert np.mean(is_inside_B == ((low_B <= runs_B) & (runs_B <= high_B))) > 0.99


@pytest.mark.long
@pytest.mark.parametrize("level", COVERS)
def test_intervals_of_parameters_hold_the_truth_as_often_as_they_say(study: Study, level: float) -> None:
    one = fit(study.form, study.x_RV, study.law(study.x_RV))
    for name, value in TRUTH[study.form.name].items():
        low_B, high_B = bounds(*study.fits, study.spread, lambda theta_BP: one.value(name, theta_BP), level)  # noqa: B023
        covered = np.mean((low_B <= np.log(value)) & (np.log(value) <= high_B))
        assert COVERS[level][0] <= covered <= COVERS[level][1], name


def test_intervals_that_ignore_the_uncertainty_of_the_noise_hold_the_truth_too_seldom() -> None:
    """The planted error: the normal distribution in the place of Student's."""
    study = Study("compute", np.geomspace(1e15, 1e18, 5)[:, None], lambda x: 1.8 + 1000 / x[:, 0] ** 0.18, 0.004)
    quantity = loss_at(study.form, np.log(study.far(100.0) / study.scale_V))
    truth = float(np.log(study.law(study.far(100.0)))[0])
    certain = type(study.spread)(study.spread.variance_B, np.full(NUM_TRIALS, 1e6))
    low_B, high_B = bounds(*study.fits, certain, quantity, 0.95)
    assert np.mean((low_B <= truth) & (truth <= high_B)) < 0.9


def test_an_end_that_the_runs_do_not_bound_is_infinite() -> None:
    study = by_compute(noise=0.03, num_trials=40)  # a noise at which no constant may be needed
    one = fit(study.form, study.x_RV, study.law(study.x_RV))
    low_B, high_B = bounds(*study.fits, study.spread, lambda theta_BP: one.value("E", theta_BP), 0.95)
    assert np.mean(np.isneginf(low_B)) > 0.4 and np.isfinite(high_B).all()


def test_as_many_runs_as_parameters_bound_nothing() -> None:
    form, log_x_RV = FORMS.get("compute"), np.array([[-1.0], [0.0], [1.0]])
    problems, minima = fit_by_noise(table(form, log_x_RV, np.log([[3.0, 2.6, 2.4]])))
    quantity = loss_at(form, np.array([[3.0]]))
    low_B, high_B = bounds(problems, minima, spread(problems, minima.theta_BP), quantity, 0.8)
    assert np.isneginf(low_B).all() and np.isposinf(high_B).all()
