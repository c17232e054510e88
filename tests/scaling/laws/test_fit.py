"""Fits find the laws behind tables of runs, as published ones, and those that made synthetic tables."""

import numpy as np
import pytest

from foretrain.scaling.laws.fit import TUNING, fit
from foretrain.scaling.laws.forms import FORMS
from foretrain.scaling.laws.huber import DELTA
from foretrain.scaling.laws.published import chinchilla_points


def test_the_published_runs_give_the_corrected_law_of_chinchilla() -> None:
    # arXiv 2404.10102 leaves out the five runs with the highest losses.
    x_NV, losses = chinchilla_points()
    found = fit(FORMS.get("chinchilla"), x_NV[:-5], losses[:-5], DELTA)
    assert len(losses) == 245
    assert found.values["alpha"] == pytest.approx(0.3473, abs=1e-3)
    assert found.values["beta"] == pytest.approx(0.3672, abs=1e-3)
    assert found.values["E"] == pytest.approx(1.8172, abs=1e-3)
    assert found.objective <= 1.0184e-3


def test_five_runs_with_high_losses_change_the_exponent_of_the_tokens() -> None:
    found = fit(FORMS.get("chinchilla"), *chinchilla_points(), DELTA)
    assert found.values["beta"] == pytest.approx(0.453, abs=1e-3)


@pytest.mark.parametrize("delta", [DELTA, None])
def test_a_fit_of_runs_without_noise_is_the_law_that_made_them(delta: float | None) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        alpha, beta = random.uniform(0.15, 0.6, 2)
        law = {"E": random.uniform(0.5, 3.0), "A": random.uniform(50, 2000), "B": random.uniform(50, 5000)}
        law |= {"alpha": alpha, "beta": beta}
        x_NV = np.exp(random.uniform(np.log([1e6, 1e8]), np.log([1e9, 1e11]), (30, 2)))
        losses = law["E"] + law["A"] / x_NV[:, 0] ** alpha + law["B"] / x_NV[:, 1] ** beta
        found = fit(FORMS.get("chinchilla"), x_NV, losses, delta)
        assert found.loss(x_NV) == pytest.approx(losses, rel=1e-5)
        assert found.values == pytest.approx(law, rel=0.02)


@pytest.mark.parametrize("name", ["compute", "compute_no_e"])
def test_a_fit_does_not_depend_on_the_unit_of_compute(name: str) -> None:
    random = np.random.default_rng(1)
    flops = np.geomspace(1e15, 1e21, 15)[:, None]
    losses = (1.7 + 900.0 / flops[:, 0] ** 0.15) * np.exp(0.003 * random.standard_normal(15))
    form = FORMS.get(name)
    found, in_petaflops = fit(form, flops, losses), fit(form, flops / 1e15, losses)
    far = np.array([[1e23]])
    assert found.loss(far) == pytest.approx(in_petaflops.loss(far / 1e15), rel=1e-6)


def test_the_delta_that_is_chosen_by_the_noise_shows_it_also_with_few_runs() -> None:
    random, found = np.random.default_rng(3), []
    flops = np.geomspace(1e15, 1e21, 8)[:, None]
    for _ in range(40):
        losses = (1.7 + 900.0 / flops[:, 0] ** 0.15) * np.exp(0.01 * random.standard_normal(8))
        found.append(fit(FORMS.get("compute"), flops, losses).delta)
    assert 0.7 < np.median(found) / (TUNING * 0.01) < 1.3


def test_one_wrong_run_of_thirty_changes_a_fit_little() -> None:
    flops = np.geomspace(1e15, 1e21, 30)[:, None]
    random = np.random.default_rng(2)
    losses = (1.7 + 900.0 / flops[:, 0] ** 0.15) * np.exp(0.003 * random.standard_normal(30))
    calm = fit(FORMS.get("compute"), flops, losses).loss(np.array([[1e22]]))
    losses[10] *= 1.3
    assert fit(FORMS.get("compute"), flops, losses).loss(np.array([[1e22]])) == pytest.approx(calm, rel=0.01)


def test_bad_tables_are_refused_with_what_to_do() -> None:
    form, x_NV = FORMS.get("compute"), np.geomspace(1e15, 1e18, 4)[:, None]
    too_few = (
        r"runs of 2 sizes, in which each of C must vary, cannot determine the 3 parameters of L\(C\) = .*: add runs"
    )
    with pytest.raises(ValueError, match=too_few):
        fit(form, x_NV[:2], np.array([3.0, 2.9]))
    with pytest.raises(ValueError, match=too_few):  # other seeds are not other sizes
        fit(form, x_NV[[0, 1, 0, 1]], np.array([3.0, 2.9, 3.1, 2.8]))
    one_budget = np.stack([np.geomspace(1e6, 1e9, 8), np.full(8, 1e10)], axis=1)
    with pytest.raises(ValueError, match="in which each of N, D must vary"):
        fit(FORMS.get("chinchilla"), one_budget, np.linspace(4.0, 3.0, 8))
    with pytest.raises(ValueError, match="needs N and D of each run, and one loss"):
        fit(FORMS.get("chinchilla"), one_budget[:, :1], np.linspace(4.0, 3.0, 8))
    for bad in (np.nan, np.inf, 0.0, -1.0):
        with pytest.raises(ValueError, match="is not a positive number: leave that run out"):
            fit(form, x_NV, np.array([3.0, bad, 2.8, 2.7]))
