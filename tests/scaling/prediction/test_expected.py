"""The expected curve of one more run: a line for sizes with one run, and what other seeds of its size have shown."""

import numpy as np
import pytest

from foretrain.scaling.prediction.expected import expected
from foretrain.scaling.prediction.shape import Trend
from tests.scaling.prediction.curves import World


def test_if_every_size_has_one_run_the_expected_curve_is_their_trend() -> None:
    ladder = World(num_seeds=1, slope=0.1).ladder(np.random.default_rng(0))
    found = expected(ladder.log_compute_R, ladder.ratios, ladder.log_compute_R[-1] + 1.0)
    assert found is not None
    trend = Trend.of(ladder.log_compute_R, ladder.ratios, is_linear=True)
    assert found.value_K == pytest.approx(trend.at(ladder.log_compute_R[-1] + 1.0), abs=1e-12)
    assert found.freedom == found.run_freedom == 3
    own_K = np.array(found.noise.std) / np.sqrt(1.0 + trend.leverage(ladder.log_compute_R[-1] + 1.0))
    assert own_K.mean() == pytest.approx(0.013, rel=0.4), "0.008 that changes slowly, and 0.01"


def test_seeds_of_a_size_do_not_make_a_trend_over_sizes_more_certain() -> None:
    std, freedom = {}, {}
    for num_seeds in (4, 12):
        ladder = World(num_seeds=num_seeds, size=0.03).ladder(np.random.default_rng(0))
        found = expected(ladder.log_compute_R, ladder.ratios, ladder.log_compute_R[-1] + 1.5)
        assert found is not None
        std[num_seeds], freedom[num_seeds] = float(np.mean(found.noise.std)), found.freedom
    assert std[12] == pytest.approx(std[4], rel=0.15) and std[12] > 0.03
    assert max(freedom.values()) < 8, "there are five sizes"


def test_a_run_is_expected_where_other_seeds_of_its_size_are() -> None:
    world = World(size=0.05, seed=0.002, slow=0.002, own=0.002)
    ladder = world.ladder(np.random.default_rng(0))
    rest = np.arange(15) != 4
    found = expected(ladder.log_compute_R[rest], ladder.ratios[rest], ladder.log_compute_R[4])
    assert found is not None
    assert np.abs(ladder.ratios[4] - found.value_K).max() < 0.02 and np.mean(found.noise.std) < 0.01
    seeds = [3, 5]
    assert found.value_K == pytest.approx(ladder.ratios[seeds].mean(0), abs=0.003)


def test_runs_of_one_size_let_expect_nothing_of_another() -> None:
    ladder = World().runs(np.random.default_rng(0), [1e15] * 5)
    assert expected(ladder.log_compute_R, ladder.ratios, np.log(1e16)) is None
    same = expected(ladder.log_compute_R, ladder.ratios, float(np.log(1e15)))
    assert same is not None and same.value_K == pytest.approx(ladder.ratios.mean(0))
