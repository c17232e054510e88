"""Back-tests predict larger runs from smaller ones, and widen intervals only if the law is wrong."""

import numpy as np
import pytest

from foretrain.scaling.laws.backtest import LEAST_RATIO, BackTest, Case, backtest
from foretrain.scaling.laws.fit import fit
from foretrain.scaling.laws.forms import FORMS, Floats

FLOPS_R = np.geomspace(1e15, 1e19, 14)


def of(law: Floats, noise: float = 0.003, seed: int = 0, form: str = "compute") -> BackTest:
    losses = law * np.exp(noise * np.random.default_rng(seed).standard_normal(len(law)))
    return backtest(FORMS.get(form), FLOPS_R[:, None], losses, FLOPS_R)


RIGHT = 1.8 + 1000 / FLOPS_R**0.18


def test_each_case_is_the_prediction_of_a_fit_to_the_smaller_runs() -> None:
    found = of(RIGHT)
    losses = RIGHT * np.exp(0.003 * np.random.default_rng(0).standard_normal(14))
    for case in found.cases:
        edge = 4 + case.cut  # the first cut has four runs, one more than the law has parameters
        smaller = fit(FORMS.get("compute"), FLOPS_R[:edge, None], losses[:edge])
        target = np.argmin(np.abs(FLOPS_R / FLOPS_R[edge - 1] - case.ratio))
        predicted = float(smaller.loss(FLOPS_R[target : target + 1, None])[0])
        assert case.error == pytest.approx(np.log(predicted / losses[target]), abs=1e-4)
        assert case.ratio > LEAST_RATIO


def test_a_right_law_is_seldom_widened_and_covers_as_it_says() -> None:
    found = [of(RIGHT, seed=seed) for seed in range(16)]
    assert np.mean([each.widening > 1.0 for each in found]) < 0.2
    assert 0.8 < np.mean([each.coverage(0.9) for each in found]) < 0.98


def test_a_wrong_law_is_widened_by_what_it_missed() -> None:
    # The planted error: a law without a constant, for runs that have one.
    found = of(RIGHT, form="compute_no_e")
    assert found.widening > 2.0
    assert found.coverage(0.9) < 0.5
    assert found.worst_error > found.median_error > 0.0


def test_runs_that_allow_no_back_test_have_no_cases_and_are_not_widened() -> None:
    found = backtest(FORMS.get("compute"), FLOPS_R[:4, None], RIGHT[:4], FLOPS_R[:4])
    assert (found.cases, found.widening, found.largest_distance) == ((), 1.0, 0.0)
    assert np.isnan(found.median_error) and np.isnan(found.coverage(0.9))


def test_cases_are_divided_by_their_ratio() -> None:
    found = BackTest(tuple(Case(0, ratio, 1.0, 0.01 * ratio, 0.5) for ratio in (2.0, 3.9, 4.0, 70.0)))
    assert [len(found.between(low, 2 * low).cases) for low in (2, 4, 64)] == [2, 1, 1]
