"""The best rate of a valley is found, its uncertainty is right, and other losses are refused with the reason."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foretrain.scaling.transfer.optimum import NoOptimumError, find_optimum, one_sigma

CENTRES, CURVATURES = st.floats(-15, 0), st.floats(1e-3, 10)
GRIDS = st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0]), min_size=4, max_size=12)
"""Steps from each rate to the next."""
INF, NAN = math.inf, math.nan


def parabola(
    x: np.ndarray, centre: float, curvature: float, of_seeds: Sequence[float] | np.ndarray = (2.5,)
) -> np.ndarray:
    return curvature * (x - centre)[:, None] ** 2 + np.array(of_seeds)


@given(CENTRES, CURVATURES, GRIDS, st.floats(0, 1), st.lists(st.floats(-10, 10), min_size=1, max_size=4))
def test_an_exact_parabola_is_found_exactly(
    centre: float, curvature: float, steps: list[float], place: float, of_seeds: list[float]
) -> None:
    x = np.r_[0, np.cumsum(steps)]
    x += centre - x[1] - place * (x[-2] - x[1])  # not at the edge
    losses_RS = parabola(x, centre, curvature, of_seeds)
    assume(0 < np.argmin(losses_RS.mean(axis=1)) < len(x) - 1)
    found = find_optimum(x, losses_RS)
    assert found.log2_lr == pytest.approx(centre, abs=1e-9)
    assert found.curvature == pytest.approx(curvature, rel=1e-9)
    assert found.loss == pytest.approx(np.mean(of_seeds), abs=1e-9)
    assert found.loss_at(x[1]) == pytest.approx(losses_RS[1].mean(), rel=1e-9, abs=1e-9)
    assert found.source == "grid" or found.uncertainty < 1e-9


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(-1, 1))
def test_a_constant_on_all_losses_or_on_those_of_a_seed_does_not_move_the_optimum(
    seed: int, all_of: float, one: float
) -> None:
    x = np.arange(-9.0, -2)
    losses_RS = parabola(x, -5.2, 0.06, (0, 0)) + np.random.default_rng(seed).normal(0, 0.01, (7, 2))
    before, after = find_optimum(x, losses_RS), find_optimum(x, losses_RS + all_of + np.array([0, one]))
    assert after.log2_lr == pytest.approx(before.log2_lr, abs=1e-9)
    assert after.uncertainty == pytest.approx(before.uncertainty, abs=1e-9)
    assert after.loss == pytest.approx(before.loss + all_of + one / 2, abs=1e-9)


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
@pytest.mark.parametrize("step", [0.25, 0.5, 1.0])
def test_two_of_three_optima_are_within_their_uncertainty(num_seeds: int, step: float) -> None:
    rng, num_repeats, inside = np.random.default_rng(0), 400, 0
    for _ in range(num_repeats):
        x = np.arange(-10, -1, step) + rng.uniform(0, step)
        own = rng.normal(0, 0.03, num_seeds)  # the error of the seed: ten times what matters
        losses_RS = parabola(x, -5.2, 0.06, own) + rng.normal(0, 0.003, (len(x), num_seeds))
        found = find_optimum(x, losses_RS)
        inside += abs(found.log2_lr + 5.2) <= found.uncertainty
    assert 0.62 < inside / num_repeats < 0.78  # 0.68, give or take 2.5 standard deviations; with one seed a little more


def test_the_factor_for_few_seeds_is_that_of_students_t() -> None:
    expected = {1: 1.837, 2: 1.321, 3: 1.197, 5: 1.111, 10: 1.053, 100: 1.005}  # from a table
    assert {num_free: one_sigma(num_free) for num_free in expected} == pytest.approx(expected, abs=5e-4)


def test_with_one_seed_an_asymmetric_valley_is_less_certain_than_a_parabola() -> None:
    x = np.arange(-9.0, -2)
    straight = parabola(x, -5.2, 0.06)
    crooked = straight + 0.01 * (x + 5.2)[:, None] ** 3
    assert find_optimum(x, straight).uncertainty < 1e-9
    found = find_optimum(x, crooked)
    assert found.source == "misfit" and 0.03 < found.uncertainty < 1


def test_with_one_seed_and_three_rates_the_uncertainty_is_that_of_the_grid() -> None:
    found = find_optimum([-6, -5, -4], parabola(np.array([-6.0, -5, -4]), -5.2, 0.06))
    assert (found.source, found.uncertainty) == ("grid", 1.0)


def test_finer_rates_help_if_three_points_are_not_enough() -> None:
    rng, x, errors = np.random.default_rng(0), np.arange(-9, -1, 0.25), []
    for _ in range(200):
        found = find_optimum(x, parabola(x, -5.2, 0.03, (0, 0)) + rng.normal(0, 0.01, (len(x), 2)))
        errors.append(found.log2_lr + 5.2)
    assert np.sqrt(np.mean(np.square(errors))) < 0.15  # with three points 0.26


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([3.0, 2.5], "2 learning rates have a result, and a parabola needs 3"),
        ([2.0, 2.1, 2.5, 3.0], r"the best rate, 2\^-9, is the smallest .* sweep smaller ones"),
        ([3.0, 2.5, 2.1, 2.0], r"the best rate, 2\^-6, is the largest .* sweep larger ones"),
        ([3.0, 2.5, 2.1, INF], r"the best rate, 2\^-7, is next to one that diverged, 2\^-6: sweep rates between"),
        ([INF, INF, INF], r"every rate diverged: sweep smaller ones, below 2\^-9"),
        ([2.5, 2.5, 2.5, 2.5], "is the smallest"),
        ([3.0, 2.4, 2.8, 2.41, 3.0], r"two valleys, one at 2\^-7.9 and one at 2\^-6: sweep more seeds"),
        ([3.0, 2.41, 2.8, 2.4, 3.0], r"two valleys, one at 2\^-6.1 and one at 2\^-8"),
        ([3.0, NAN, 2.1, 2.5, 3.0], r"2\^-8 lacks the result of a seed: run `foretrain sweep`"),
        ([3.0, 2.5, 2.1, 2.5, NAN], r"2\^-5 lacks the result of a seed"),
    ],
)
def test_losses_without_a_valley_are_refused_with_the_reason(losses: list[float], says: str) -> None:
    with pytest.raises(NoOptimumError, match=says):
        find_optimum(np.arange(-9.0, -9 + len(losses)), np.array(losses)[:, None])


def test_fine_rates_whose_losses_are_not_convex_are_refused() -> None:
    x = np.arange(-6, -3.9, 0.25)
    losses = np.array([2.30, 2.30, 2.31, 2.35, 2.29, 2.35, 2.31, 2.30, 2.30])
    with pytest.raises(NoOptimumError, match=r"the losses from 2\^-6 to 2\^-4 are not a valley"):
        find_optimum(x, losses[:, None])


def test_a_rate_that_diverges_with_one_seed_has_diverged() -> None:
    losses_RS = parabola(np.arange(-9.0, -2), -5.2, 0.06, (2.5, 2.6))
    losses_RS[5, 1] = INF  # 2^-4
    with pytest.raises(NoOptimumError, match=r"next to one that diverged, 2\^-4"):
        find_optimum(np.arange(-9.0, -2), losses_RS)


def test_a_rate_that_lacks_a_seed_is_left_out_if_it_cannot_matter() -> None:
    x = np.arange(-9.0, -2)
    losses_RS = parabola(x, -5.2, 0.06, (2.5, 2.6))
    losses_RS[0, 1] = NAN
    assert find_optimum(x, losses_RS).log2_lr == pytest.approx(-5.2, abs=1e-9)
    near_RS = losses_RS.copy()
    near_RS[3, 1] = NAN  # worse than the best, and between those that are fitted
    with pytest.raises(NoOptimumError, match=r"2\^-6 lacks the result of a seed"):
        find_optimum(x, near_RS)
    losses_RS[0, 0] = 2.4  # better than the best with the one seed that it has
    with pytest.raises(NoOptimumError, match=r"2\^-9 lacks the result of a seed"):
        find_optimum(x, losses_RS)
