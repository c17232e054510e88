"""Fits of curves: they find the law behind synthetic runs, and predict published runs with schedules not seen."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.curves.published import FITTED, SIZES, STABLE_DECAY, published_curves
from benchmarks.curves.report import MEAN_BAR, WORST_BAR
from foretrain.scaling.laws.curves.fit import Curve, fit_curves, relative_errors
from foretrain.scaling.laws.curves.law import CurveLaw
from foretrain.scaling.laws.huber import DELTA
from tests.scaling.laws.curves.cases import LAW, schedules

RATES = schedules(2_000, 100)
STEPS = np.arange(120, 2_000, 40)
SEEN = ("constant", "cosine to zero", "one step down")


def made(names: tuple[str, ...], noise: float = 0.0, seed: int = 0, scale: float = 1.0) -> list[Curve]:
    """Curves of a law, with relative noise. With a scale, another unit of the rates."""
    random, law = np.random.default_rng(seed), CurveLaw(**LAW)
    losses = {name: law.loss(RATES[name], STEPS) * np.exp(noise * random.standard_normal(len(STEPS))) for name in names}
    return [Curve(scale * RATES[name], STEPS, losses[name], name) for name in names]


@pytest.mark.parametrize("size", SIZES)
def test_published_runs_that_decay_at_the_end_are_predicted_from_other_schedules(size: str) -> None:
    curves = published_curves(size)
    law = fit_curves(
        [curves[name] for name in FITTED["constant, cosine, one step-down"]], num_points=80, num_starts=2
    ).law
    for name in STABLE_DECAY:
        errors = np.abs(relative_errors(law, curves[name]))
        assert errors.mean() <= MEAN_BAR
        assert errors.max() <= WORST_BAR


def test_a_published_law_without_its_loss_drop_misses_the_bar() -> None:  # so the check above can fail
    curves = published_curves("25M")
    law = fit_curves(
        [curves[name] for name in FITTED["constant, cosine, one step-down"]], num_points=40, num_starts=1
    ).law
    without = replace(law, B=1e-9)
    assert np.abs(relative_errors(without, curves[STABLE_DECAY[0]])).max() > WORST_BAR


def test_a_fit_of_runs_without_noise_predicts_all_other_schedules() -> None:
    found = fit_curves(made(SEEN), num_starts=2)
    assert found.law.alpha == pytest.approx(LAW["alpha"], rel=0.02)
    for name, rate in RATES.items():
        assert found.law.loss(rate, STEPS) == pytest.approx(CurveLaw(**LAW).loss(rate, STEPS), rel=2e-3), name


def test_a_fit_does_not_depend_on_the_unit_of_the_rates() -> None:
    found, in_other_units = (fit_curves(made(SEEN, 1e-3, scale=scale), num_starts=2) for scale in (1.0, 1e4))
    unseen = RATES["stable, then linear to zero"]
    assert found.law.loss(unseen, STEPS) == pytest.approx(in_other_units.law.loss(1e4 * unseen, STEPS), rel=1e-5)


def test_one_wrong_loss_and_noise_change_a_prediction_little() -> None:
    curves = made(SEEN, 1e-3)
    curves[1].loss_N[30] *= 1.3
    unseen = RATES["stable, then linear to zero"]
    law = fit_curves(curves, num_starts=2).law
    assert law.loss(unseen, STEPS) == pytest.approx(CurveLaw(**LAW).loss(unseen, STEPS), rel=3e-3)


def test_the_delta_follows_the_noise_if_it_is_left_to_the_fit() -> None:
    assert fit_curves(made(SEEN), None, num_starts=1).delta == DELTA
    assert fit_curves(made(SEEN, 0.01), None, num_starts=1).delta == pytest.approx(0.01345, rel=0.3)


def test_a_cosine_alone_is_not_overfitted() -> None:
    law = fit_curves(made(("cosine to zero",), 1e-3), num_starts=1).law
    assert 0.2 < law.beta < 1.3
    assert -0.1 < law.gamma < 1.1


def test_thinned_curves_keep_the_mean_and_the_step_of_neighbours() -> None:
    curve = Curve(np.ones(2_000), np.arange(1_000, 1_012), np.arange(1_000.0, 1_012.0))
    thin, count = curve.thinned(4)
    assert thin.step_N.tolist() == thin.loss_N.tolist() == [1_001, 1_004, 1_007, 1_010]
    assert count.tolist() == [3, 3, 3, 3]
    assert curve.thinned(3)[0].step_N.tolist() == [1_001, 1_005, 1_009]  # the second of each four
    assert curve.thinned(12)[0] is curve
    jump = Curve(np.repeat([1.0, 0.5], [1_002, 998]), curve.step_N, curve.loss_N)
    assert jump.thinned(4)[0].loss_N.tolist() == [1_000.5, 1_002.0, 1_004.0, 1_007.0, 1_010.0]


def test_a_long_curve_with_much_noise_is_fitted_without_bias() -> None:
    rates, law = schedules(20_000, 400), CurveLaw(**LAW)
    random, steps = np.random.default_rng(0), np.arange(400, 20_000)
    noisy = {name: law.loss(rates[name], steps[::4]) * np.exp(0.02 * random.standard_normal(4_900)) for name in SEEN}
    curves = [Curve(rates[name], steps[::4], noisy[name], name) for name in SEEN]
    found = fit_curves(curves, None, num_points=100, num_starts=1).law
    del rates["noisy"]  # what follows within a few steps of a drop is lost in the noise of these curves
    for rate in rates.values():
        assert found.loss(rate, steps[::500]) == pytest.approx(law.loss(rate, steps[::500]), rel=2e-3)


def test_runs_that_cannot_determine_the_law_are_refused_with_what_is_missing() -> None:
    with pytest.raises(
        ValueError, match="constant: no learning rate changes after the warm-up, so B, C, beta and gamma"
    ):
        fit_curves(made(("constant",)))
    with pytest.raises(ValueError, match="lead to the same rate, which determines C and gamma only together"):
        fit_curves(made(("constant", "one step down")))
    before = made(("one step down",))[0]
    early = replace(before, step_N=before.step_N[:10], loss_N=before.loss_N[:10])
    with pytest.raises(ValueError, match="no learning rate changes"):  # those after the last loss do not count
        fit_curves([early])
    few = replace(before, step_N=before.step_N[::10], loss_N=before.loss_N[::10])
    with pytest.raises(ValueError, match="5 losses cannot determine the 7 parameters"):
        fit_curves([few])
    none = replace(before, step_N=before.step_N[:0], loss_N=before.loss_N[:0], name="empty")
    with pytest.raises(ValueError, match="empty: there are no losses after the warm-up"):
        fit_curves([*made(SEEN), none])
    with pytest.raises(ValueError, match="0 losses cannot"):
        fit_curves([])


def test_curves_with_wrong_losses_or_steps_are_refused_by_the_name_of_the_run() -> None:
    rate, steps = np.ones(10), np.arange(3)
    for bad in (np.nan, np.inf, 0.0, -1.0):
        with pytest.raises(ValueError, match=r"small: the loss of step 1 is .*, which is not a positive number"):
            Curve(rate, steps, np.array([3.0, bad, 2.8]), "small")
    with pytest.raises(ValueError, match="small: there are 3 steps and 2 losses"):
        Curve(rate, steps, np.ones(2), "small")
    with pytest.raises(ValueError, match="small: the steps do not rise"):
        Curve(rate, np.array([0, 2, 2]), np.ones(3), "small")
    with pytest.raises(ValueError, match="small: step 10 is not one of the steps 0 to 9"):
        Curve(rate, np.array([0, 2, 10]), np.ones(3), "small")
    with pytest.raises(ValueError, match="small: the learning rate of step 0 is -1"):
        Curve(-rate, steps, np.ones(3), "small")
