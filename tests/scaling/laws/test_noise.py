"""The noise of replicates is measured apart from a law that does not fit."""

import numpy as np
import pytest

from foretrain.scaling.laws.fit import fit
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.noise import SIGNIFICANCE, lack_of_fit, replicates

FLOPS_RV = np.repeat(np.geomspace(1e15, 1e18, 8), 4)[:, None]


def probability(loss_R: Floats) -> float:
    """That noise alone is as far from the best law without a constant as these losses."""
    found = fit(FORMS.get("compute_no_e"), FLOPS_RV, loss_R)
    residual_R = found.problem.residual(found.theta_P[None])[0]
    number = lack_of_fit(found.problem.log_x_BRV[0], found.problem.log_loss_BR[0], residual_R, 2)
    assert number is not None
    return number


def losses(seed: int, constant: float, noise: float = 0.005) -> Floats:
    random = np.random.default_rng(seed)
    return (constant + 1000 / FLOPS_RV[:, 0] ** 0.18) * np.exp(noise * random.standard_normal(len(FLOPS_RV)))


def test_the_noise_of_replicates_is_that_of_the_seeds_also_if_no_law_fits() -> None:
    found = [replicates(np.log(FLOPS_RV), np.log(losses(seed, constant=1.5))) for seed in range(50)]
    assert found[0].freedom == 24
    assert np.sqrt(np.mean([each.std**2 for each in found])) == pytest.approx(0.005, rel=0.06)


def test_a_misspecified_law_is_found_and_a_right_one_is_accused_as_seldom_as_it_should() -> None:
    wrong = [probability(losses(seed, constant=1.5)) for seed in range(15)]
    right = [probability(losses(seed, constant=0.0)) for seed in range(80)]
    assert np.mean(np.array(wrong) < SIGNIFICANCE) > 0.95
    assert np.mean(np.array(right) < SIGNIFICANCE) < 0.1


def test_without_replicates_or_with_no_more_sizes_than_parameters_nothing_is_said() -> None:
    log_x_RV = np.log(np.geomspace(1e15, 1e18, 6))[:, None]
    assert lack_of_fit(log_x_RV, np.linspace(1.2, 1.0, 6), np.full(6, 0.1), 2) is None
    assert not replicates(log_x_RV, np.linspace(1.2, 1.0, 6)).is_known
    twice = np.repeat(log_x_RV[:2], 2, axis=0)
    assert lack_of_fit(twice, np.array([1.2, 1.21, 1.0, 1.01]), np.zeros(4), 2) is None
