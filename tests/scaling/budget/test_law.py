"""The compute-optimal split of a law: its closed form, the published ones, and intervals that hold the truth."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from foretrain.scaling.budget.law import Law, Split, optimum_of
from foretrain.scaling.budget.source import PUBLISHED
from foretrain.scaling.laws import published
from foretrain.scaling.laws.fit import fit
from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.intervals import bounds
from tests.scaling.laws.test_intervals import COVERS, TRUTH, by_both

laws = st.builds(
    Law,
    e=st.floats(0.5, 3),
    a=st.floats(10, 5000),
    b=st.floats(10, 5000),
    alpha=st.floats(0.1, 0.8),
    beta=st.floats(0.1, 0.8),
)


@given(laws, st.floats(12, 28), st.floats(2, 30))
def test_the_closed_form_is_where_a_search_finds_the_least_loss(law: Law, log10_flops: float, k: float) -> None:
    flops = 10**log10_flops
    num_params, num_tokens = law.optimum(flops, k)
    assert k * num_params * num_tokens == pytest.approx(flops)

    above_e = replace(law, e=0.0)  # e does not move the optimum, and would hide the digits of what is added to it

    def loss(log_params: float) -> float:
        return above_e.loss(math.exp(log_params), flops / k / math.exp(log_params))

    middle = math.log(num_params)
    found = minimize_scalar(loss, bounds=(middle - 5, middle + 5), method="bounded", options={"xatol": 1e-6})
    assert loss(middle) <= found.fun * (1 + 1e-12)
    assert found.x == pytest.approx(middle, abs=1e-3)


@given(laws, st.floats(6, 12), st.floats(0.2, 5))
def test_a_model_has_the_loss_after_the_tokens_that_it_needs_or_never_has_it(
    law: Law, log10_params: float, times: float
) -> None:
    num_params, num_tokens = 10**log10_params, 20 * 10**log10_params
    loss, smaller = law.loss(num_params, num_tokens), num_params / times
    tokens = law.tokens_for(smaller, loss)
    if tokens is None:
        assert law.loss(smaller, 1e290) >= loss * (1 - 1e-9)
    else:
        assert law.loss(smaller, tokens) == pytest.approx(loss)


TABLE_A3 = [
    (400e6, 2.21e19, 9.2e9),
    (1e9, 1.62e20, 27.1e9),
    (10e9, 2.46e22, 410.1e9),
    (67e9, 1.71e24, 4.1e12),
    (175e9, 1.26e25, 12.0e12),
    (280e9, 3.52e25, 20.1e12),
    (520e9, 1.36e26, 43.5e12),
    (1e12, 5.65e26, 94.1e12),
    (10e12, 8.55e28, 1425.5e12),
]
"""Parameters, FLOPs and tokens of approach 3 in table A3 of arXiv 2203.15556. It prints 1.26e24 for 175 billion, but
6 N D of its own numbers is 1.26e25."""


@pytest.mark.parametrize(("num_params", "flops", "num_tokens"), TABLE_A3)
def test_the_law_of_hoffmann_gives_the_published_allocations(
    num_params: float, flops: float, num_tokens: float
) -> None:
    # The table grows as C^0.459, and the law with the published digits as C^0.457.
    params, tokens = PUBLISHED["hoffmann"]().law.optimum(flops)
    assert params == pytest.approx(num_params, rel=0.08)
    assert tokens == pytest.approx(num_tokens, rel=0.11)


def test_the_compute_of_gopher_asks_for_40_billion_parameters_by_hoffmann_and_70_by_the_refit() -> None:
    # Figure 4 of arXiv 2203.15556: 40B. Its other approaches, and Chinchilla itself: 67B to 70B.
    assert PUBLISHED["hoffmann"]().law.optimum(5.76e23)[0] == pytest.approx(40e9, rel=0.02)
    assert PUBLISHED["refit"]().law.optimum(5.76e23)[0] == pytest.approx(73e9, rel=0.02)


def test_the_refit_is_the_published_one_within_its_standard_errors() -> None:
    found = published.refit().fit.values
    for name, value in published.REFIT.items():
        assert abs(found[name] - value) < published.REFIT_ERRORS[name], name
    ours, theirs = PUBLISHED["refit"]().law, Law.of(published.REFIT)
    for flops in (1e21, 5.76e23):
        assert ours.optimum(flops) == pytest.approx(theirs.optimum(flops), rel=0.03)


def test_intervals_are_nested_around_the_optimum_and_grow_with_the_extrapolation() -> None:
    source = PUBLISHED["refit"]()
    near, far = (optimum_of(source.law, source.evidence, flops) for flops in (1e20, 1e25))
    for optimum in (near, far):
        for name, intervals in optimum.intervals.items():
            value = getattr(optimum, name)
            lows, highs = [each.low for each in intervals], [each.high for each in intervals]
            assert lows == sorted(lows, reverse=True) and highs == sorted(highs)
            assert lows[0] < value < highs[0], name
    widths = [each.intervals["num_params"][1] for each in (near, far)]
    assert widths[0].high / widths[0].low < widths[1].high / widths[1].low


def test_without_evidence_there_are_no_intervals() -> None:
    assert optimum_of(PUBLISHED["hoffmann"]().law, None, 1e22).intervals == {}


def split() -> tuple[Split, Floats]:
    """The split of a synthetic table, and parameters near those of its law."""
    study = by_both(num_trials=8)
    one = fit(study.form, study.x_RV, study.law(study.x_RV))
    return Split(one, 1e19, 6.7), study.minima.theta_BP


@pytest.mark.parametrize("name", ["num_params", "num_tokens", "tokens_per_param", "loss"])
def test_quantities_are_those_of_the_closed_form_and_have_its_derivatives(name: str) -> None:
    of, theta_BP = split()
    quantity = of.quantities[name]
    value_B, slope_BP = quantity(theta_BP)
    for theta_P, value in zip(theta_BP, value_B, strict=True):
        law = Law.of({each: float(np.exp(of.fit.value(each, theta_P[None])[0][0])) for each in of.fit.form.parameters})
        num_params, num_tokens = law.optimum(of.flops, of.flops_per_param)
        expected = {
            "num_params": num_params,
            "num_tokens": num_tokens,
            "tokens_per_param": num_tokens / num_params,
            "loss": law.loss(num_params, num_tokens),
        }
        assert math.exp(value) == pytest.approx(expected[name], rel=1e-6)
    for place in range(theta_BP.shape[1]):
        step_P = np.zeros(theta_BP.shape[1])
        step_P[place] = 1e-5
        numeric_B = (quantity(theta_BP + step_P)[0] - quantity(theta_BP - step_P)[0]) / 2e-5
        assert slope_BP[:, place] == pytest.approx(numeric_B, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("level", [0.8, pytest.param(0.95, marks=pytest.mark.long)])
def test_intervals_of_the_optimum_hold_the_truth_as_often_as_they_say(level: float) -> None:
    """At 100 times the compute of the largest run. The interval of tokens is that of parameters, mirrored."""
    study = by_both()
    one = fit(study.form, study.x_RV, study.law(study.x_RV))
    flops = 100 * 6 * study.x_RV.prod(axis=1).max()
    names = ("E", "A", "B", "alpha", "beta")
    truth = optimum_of(Law.of({name: TRUTH["chinchilla"][name] for name in names}), None, flops)
    for name in ("num_params", "loss"):
        quantity, value = Split(one, flops, 6.0).quantities[name], math.log(getattr(truth, name))
        low_B, high_B = bounds(*study.fits, study.spread, quantity, level)
        covered = np.mean((low_B <= value) & (value <= high_B))
        assert COVERS[level][0] <= covered <= COVERS[level][1], f"{name}: {covered}"
