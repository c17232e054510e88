"""What is known of laws before there are runs has the density that is said, and gives the losses of known laws."""

from dataclasses import replace

import numpy as np
import pytest

from foretrain.scaling.laws.beliefs import USUAL_TOKENS_PER_PARAM, Additive, Beliefs, Interacting, beliefs
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.tempering import tempered

MIDDLE = np.log([1e8, 3e9])
SHARES = np.linspace(0.1, 0.9, 9)


@pytest.mark.parametrize("known", [beliefs(FORMS.get(name), MIDDLE) for name in FORMS])
def test_draws_have_the_density_that_is_said(known: Beliefs) -> None:
    random = np.random.default_rng(0)
    draws_BU = known.draws(4000, random)
    assert draws_BU.shape == (4000, known.size)

    def moved(scale: float) -> Floats:
        """The draws after Metropolis steps, which change nothing if their density is the one that is said."""
        return tempered(lambda each_BU: scale * known.log_prior(each_BU), lambda _: np.zeros(4000), draws_BU, random)

    def distance(other_BU: Floats) -> float:
        """The largest difference of quantiles, in standard deviations."""
        before, after = (np.quantile(each_BU, SHARES, axis=0) for each_BU in (draws_BU, other_BU))
        return float((np.abs(after - before) / draws_BU.std(axis=0)).max())

    assert distance(moved(1.0)) < 0.12
    assert distance(moved(2.0)) > 0.12  # the planted error: another density


def test_the_law_of_predictions_is_a_sum_if_gamma_is_one() -> None:
    known, usual_d = Interacting(np.log(30.0)), np.log(USUAL_TOKENS_PER_PARAM / 30.0)
    log_x_SV = np.random.default_rng(0).normal(size=(5, 2))
    log_n_S, log_d_S = log_x_SV.T
    alpha, beta, share = 0.3, 0.25, 0.4
    unknowns = [
        0.5 * np.log(alpha * beta),
        np.log(alpha / beta),
        40.0,
        np.log(share / (1 - share)),
        np.log(alpha / beta),
    ]
    by_n_S, by_d_S = 0.5 * np.exp(-alpha * log_n_S), 0.5 * np.exp(-beta * (log_d_S - usual_d))
    expected_S = share + (1 - share) * (by_n_S + by_d_S)
    assert np.exp(known.log_loss(np.array([unknowns]), log_x_SV)[0]) == pytest.approx(expected_S)
    unknowns[2] = 0.0  # a gamma of 0.5: equal where one term is alone, and not between
    other_S = np.exp(known.log_loss(np.array([unknowns]), log_x_SV)[0])
    assert np.abs(other_S / expected_S - 1.0).max() > 0.005


@pytest.mark.parametrize("log_odds", [-2.0, 0.0, 40.0])
def test_more_parameters_and_more_tokens_lower_the_loss_in_the_ratio_of_the_balance(log_odds: float) -> None:
    known, usual_d, step = Interacting(np.log(100.0)), np.log(USUAL_TOKENS_PER_PARAM / 100.0), 1e-5
    draw_BU = np.array([[np.log(0.3), 0.2, log_odds, 0.3, 0.7]])
    sizes_SV = np.array([[-step, usual_d], [step, usual_d], [0.0, usual_d - step], [0.0, usual_d + step]])
    less_n, more_n, less_d, more_d = known.log_loss(draw_BU, sizes_SV)[0]
    assert np.log((less_n - more_n) / (less_d - more_d)) == pytest.approx(0.7, abs=1e-4)


def test_a_law_of_other_terms_is_taken_as_it_is() -> None:
    form = FORMS.get("chinchilla")
    assert isinstance(beliefs(form, MIDDLE), Interacting)
    assert isinstance(beliefs(replace(form, interacts=False), MIDDLE), Additive)
    assert isinstance(beliefs(FORMS.get("compute"), MIDDLE[:1]), Additive)
