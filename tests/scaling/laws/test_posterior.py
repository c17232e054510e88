"""Predictions hold the loss as often as they say, for laws that are right and for laws that are not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from foretrain.scaling.laws import posterior
from foretrain.scaling.laws.beliefs import Additive
from foretrain.scaling.laws.evidence import Evidence
from foretrain.scaling.laws.forms import FORMS, Floats

NOISE = 0.004
PARAMS_R = np.repeat(np.geomspace(1e6, 1e8, 6), 4)
SIZES_RV = np.stack([PARAMS_R, PARAMS_R * np.tile([5.0, 12.0, 30.0, 80.0], 6)], axis=1)
LARGE_V = np.array([1e9, 2e10])
"""A size with 42 times the compute of the largest run."""
Law = Callable[[Floats], Floats]


def right(x_RV: Floats) -> Floats:
    return 1.8 + 480 / x_RV[:, 0] ** 0.35 + 2000 / x_RV[:, 1] ** 0.37


def bent(x_RV: Floats) -> Floats:
    """The law with a bend over compute, by 0.4 % at the ends of the runs."""
    return right(x_RV) * np.exp(0.0006 * np.log(6 * x_RV.prod(axis=1) / 1e16) ** 2)


def with_few_tokens(x_RV: Floats) -> Floats:
    """A law that does not hold for runs with fewer than 8 tokens per parameter."""
    return right(x_RV) * (1.0 + 0.1 * np.maximum(0.0, np.log(8 * x_RV[:, 0] / x_RV[:, 1])))


def interacting(x_RV: Floats) -> Floats:
    """A law in which parameters and tokens do not add up."""
    return 1.7 + (3e5 / x_RV[:, 0] ** 0.6 + 4e6 / x_RV[:, 1] ** 0.65) ** 0.6


def evidence(law: Law = right, seed: int = 0, noise: float = NOISE) -> Evidence:
    losses_R = law(SIZES_RV) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(SIZES_RV)))
    return Evidence.of(FORMS.get("chinchilla"), SIZES_RV, losses_R, 6 * SIZES_RV.prod(axis=1))


def covered(law: Law, num: int, level: float = 0.9) -> float:
    """The share of ladders whose interval holds the loss of a large run."""
    noise_B = np.exp(NOISE * np.random.default_rng(99).standard_normal(num))
    losses_B = law(LARGE_V[None])[0] * noise_B
    return float(
        np.mean([loss in evidence(law, seed).predict(LARGE_V).interval(level) for seed, loss in enumerate(losses_B)])
    )


@pytest.mark.long
@pytest.mark.parametrize("law", [right, bent, with_few_tokens, interacting])
def test_intervals_hold_the_loss_of_a_large_run_as_often_as_they_say_also_if_the_law_is_wrong(law: Law) -> None:
    assert covered(law, 20) >= 0.85


@pytest.mark.long
def test_intervals_without_a_discrepancy_hold_the_loss_of_a_law_that_bends_too_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The planted error: the law is taken as right."""
    monkeypatch.setattr(posterior, "USUAL_DISCREPANCY", 1e-9)
    monkeypatch.setattr(posterior, "distance", lambda one_SV, other_SV: np.zeros((len(one_SV), len(other_SV))))
    assert covered(bent, 20) < 0.75


def test_a_run_counts_less_the_farther_it_is_from_the_target() -> None:
    sure = replace(evidence(bent), weight_R=np.ones(len(SIZES_RV)))
    before = sure.predict(LARGE_V).loss
    shifts = []
    for place in ([0, 1, 2, 3], [20, 21, 22, 23]):  # the four runs of the smallest, and of the largest model
        losses_R = sure.loss_R.copy()
        losses_R[place] *= 1.01
        shifts.append(abs(replace(sure, loss_R=losses_R).predict(LARGE_V).loss / before - 1.0))
    assert shifts[1] > 2.0 * shifts[0]


def test_one_wrong_run_changes_a_prediction_little(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = evidence()
    losses_R = calm.loss_R.copy()
    losses_R[10] *= 1.2
    wrong = Evidence.of(calm.fit.form, SIZES_RV, losses_R, calm.compute_R)
    assert wrong.predict(LARGE_V).loss == pytest.approx(calm.predict(LARGE_V).loss, rel=0.01)
    # The planted errors: all runs count as much, and no size may be wrong.
    monkeypatch.setattr(posterior, "WRONG_SHARE", 0.0)
    counted = replace(wrong, weight_R=np.ones(len(SIZES_RV)))
    width, without = (
        each.predict(LARGE_V).interval(0.9).high / each.predict(LARGE_V).interval(0.9).low - 1.0
        for each in (wrong, counted)
    )
    assert without > 1.5 * width


def test_one_wrong_size_among_a_dozen_is_not_taken_for_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six sizes of models and two lengths of runs; one of the largest runs has a loss that is 20 % too high."""
    few = np.arange(24) % 4 < 2
    losses_R = right(SIZES_RV) * np.exp(NOISE * np.random.default_rng(0).standard_normal(24))
    losses_R[20] *= 1.2
    form, x_RV, compute_R = FORMS.get("chinchilla"), SIZES_RV[few], 6 * SIZES_RV[few].prod(axis=1)
    # Each run counts as much: what is left is that any size may be wrong.
    of = replace(Evidence.of(form, x_RV, losses_R[few], compute_R), weight_R=np.ones(12))
    truth = float(right(LARGE_V[None])[0])
    width = of.predict(LARGE_V).interval(0.9).high - of.predict(LARGE_V).interval(0.9).low
    assert of.predict(LARGE_V).loss == pytest.approx(truth, rel=0.04)
    monkeypatch.setattr(posterior, "WRONG_SHARE", 0.0)  # the planted error
    without = of.predict(LARGE_V).interval(0.9).high - of.predict(LARGE_V).interval(0.9).low
    assert without > 1.5 * width


def test_runs_whose_parameters_and_tokens_interact_are_predicted_by_a_law_that_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in the ladder of OLMo: gamma is 0.25, and the exponents are 0.25."""

    def of_gamma(x_RV: Floats) -> Floats:
        return 1.8 + 2.0 * ((x_RV[:, 0] / 1e7) ** -1.0 + (x_RV[:, 1] / 2e8) ** -1.0) ** 0.25

    truth = float(of_gamma(LARGE_V[None])[0])
    runs = evidence(of_gamma, noise=0.001)
    found = runs.predict(LARGE_V)
    assert found.loss == pytest.approx(truth, rel=0.01) and truth in found.interval(0.9)
    monkeypatch.setattr(posterior, "beliefs", lambda form, _: Additive(form))  # the planted error: gamma is 1
    other = runs.predict(LARGE_V)
    assert abs(other.loss - truth) > 2.0 * abs(found.loss - truth)


def test_intervals_grow_with_the_distance_of_the_target_and_with_the_level() -> None:
    found = evidence()
    near, far = (found.predict(times * SIZES_RV.max(axis=0)) for times in (2.0, 30.0))
    for prediction in (near, far):
        widths = [each.high / each.low for each in prediction.intervals]
        means = [each.high / each.low for each in prediction.mean_intervals]
        assert widths == sorted(widths) and all(mean < one for mean, one in zip(means, widths, strict=True))
    assert far.interval(0.9).high / far.interval(0.9).low > near.interval(0.9).high / near.interval(0.9).low


def test_a_prediction_depends_neither_on_chance_nor_on_units() -> None:
    found = evidence()
    again = found.predict(LARGE_V)
    assert found.predict(LARGE_V) == again
    scaled = replace(found, x_RV=found.x_RV / 1e6)
    assert scaled.predict(LARGE_V / 1e6).loss == pytest.approx(again.loss, rel=2e-3)


def test_more_runs_of_a_large_size_have_a_narrower_mean() -> None:
    found = evidence()
    one, four, law = (found.predict(LARGE_V, num).interval(0.9) for num in (1, 4, 10**6))
    assert one.high / one.low > four.high / four.low > law.high / law.low


@pytest.mark.long
def test_intervals_of_a_law_that_is_right_hold_the_loss_as_often_as_they_say() -> None:
    """As tests/scaling/laws/test_intervals.py, but with the noise that the evidence finds."""
    num = 300
    truth_B = right(LARGE_V[None])[0] * np.exp(NOISE * np.random.default_rng(99).standard_normal(num))
    found_B = [evidence(right, seed).if_right(LARGE_V) for seed in range(num)]
    held_BL = np.array([[loss in each for each in found] for loss, found in zip(truth_B, found_B, strict=True)])
    share_80, _, share_95 = held_BL.mean(axis=0)
    assert 0.76 <= share_80 <= 0.84
    assert 0.93 <= share_95 <= 0.97
