"""Intervals from resampled runs: right for many runs, too narrow for few, and each sample determines the law."""

import numpy as np
import pytest

from foretrain.scaling.laws.bootstrap import bootstrap, samples
from foretrain.scaling.laws.fit import Fit, fit
from foretrain.scaling.laws.forms import FORMS

FORM = FORMS.get("compute_no_e")
LOG_A, B, NOISE = np.log(30.0), 0.05, 0.005


def fitted(num_sizes: int, seed: int, num_seeds: int = 1) -> Fit:
    """The law of a table from a = 30 and b = 0.05 with a noise of 0.5 %."""
    x_NV = np.repeat(np.geomspace(1e15, 1e18, num_sizes), num_seeds)[:, None]
    noise_N = NOISE * np.random.default_rng(seed).standard_normal(len(x_NV))
    return fit(FORM, x_NV, np.exp(LOG_A - B * np.log(x_NV[:, 0]) + noise_N))


def coverage(num_sizes: int, level: float, num_tables: int) -> float:
    """The share of tables whose interval of b holds it."""
    found = [bootstrap(fitted(num_sizes, seed), num_samples=200, seed=seed) for seed in range(num_tables)]
    return float(np.mean([each is not None and B in each.parameter("b", level) for each in found]))


def test_intervals_from_40_runs_hold_the_truth_about_as_often_as_they_say() -> None:
    assert 0.72 <= coverage(40, 0.8, num_tables=100) <= 0.88


def test_intervals_from_8_runs_are_too_narrow() -> None:
    assert coverage(8, 0.8, num_tables=100) < 0.74


def test_the_interval_of_an_exponent_is_on_average_as_wide_as_that_of_a_line() -> None:
    error = NOISE / (np.std(np.log(np.geomspace(1e15, 1e18, 40))) * np.sqrt(40))  # that of the slope of a line
    found = [bootstrap(fitted(40, seed), num_samples=200) for seed in range(20)]
    widths = [interval.high - interval.low for each in found if each for interval in [each.parameter("b", 0.9)]]
    assert len(widths) == 20
    assert np.mean(widths) == pytest.approx(2 * 1.645 * error, rel=0.12)


def test_every_sample_has_as_many_runs_and_enough_sizes() -> None:
    found = fitted(3, seed=0, num_seeds=4)
    weight_BR = samples(found, 500, np.random.default_rng(0))
    assert weight_BR is not None
    assert (weight_BR.sum(axis=1) == 12).all()
    assert ((weight_BR.reshape(500, 3, 4).sum(axis=2) > 0).sum(axis=1) >= 2).all()


def test_the_same_runs_have_the_same_intervals() -> None:
    first, second = (bootstrap(fitted(8, seed=0), num_samples=50) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.theta_BP, second.theta_BP)


def test_runs_that_determine_the_law_exactly_are_not_resampled() -> None:
    form = FORMS.get("chinchilla")
    random = np.random.default_rng(0)
    x_NV = np.exp(random.uniform(np.log(1e7), np.log(1e9), (5, 2)))
    exact = fit(form, x_NV, 1.8 + 480 / x_NV[:, 0] ** 0.35 + 2000 / x_NV[:, 1] ** 0.37, delta=1e-3)
    assert bootstrap(exact) is None
