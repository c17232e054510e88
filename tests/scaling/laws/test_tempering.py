"""Draws by tempering have the distribution that was asked for."""

import numpy as np
import pytest

from foretrain.scaling.laws.tempering import tempered


@pytest.mark.parametrize("std", [0.5, 0.002])
def test_draws_have_the_mean_and_the_spread_of_a_posterior_that_is_known(std: float) -> None:
    """Normal priors with a spread of 1 and a measurement of the sum of two unknowns: the posterior is normal."""
    random = np.random.default_rng(0)
    draws_BK = tempered(
        lambda draws_BK: -0.5 * (draws_BK**2).sum(1),
        lambda draws_BK: -0.5 * ((draws_BK.sum(1) - 1.0) / std) ** 2,
        random.standard_normal((2000, 2)),
        random,
    )
    sums_B, differences_B = draws_BK.sum(1), draws_BK[:, 0] - draws_BK[:, 1]
    mean = 2.0 / (2.0 + std**2)
    assert sums_B.mean() == pytest.approx(mean, abs=0.15 * min(std, 1.0))
    assert sums_B.std() == pytest.approx(std / np.sqrt(1.0 + std**2 / 2.0), rel=0.1)
    assert differences_B.mean() == pytest.approx(0.0, abs=0.15)  # what was not measured stays as it was
    assert differences_B.std() == pytest.approx(np.sqrt(2.0), rel=0.1)
