"""Which settings are tried, and which get more tokens."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs import load as configs
from foretrain.scaling.sweep.plan import Ask, Setting, setting_of, trials_of
from foretrain.scaling.sweep.search import KEPT_OF, MIN_KEPT, check_distinct, kept, points, shares
from foretrain.scaling.sweep.space import parse_axis
from foretrain.scaling.trials.trial import Corpus, Trial


def settings(*rates: str) -> list[Setting]:
    return [setting_of(lambda more: configs.load("runs/dry_run", more), [f"optimizer.lr={rate}"]) for rate in rates]


def trials(rates: Sequence[str], ask: Ask) -> list[Trial]:
    return trials_of(settings(*rates), ask, lambda _: Corpus(300, {"": "tokens"}), Fraction(1, 3))


def test_a_grid_is_every_combination_in_order() -> None:
    axes = [parse_axis("optimizer.lr=1,2"), parse_axis("optimizer.beta1=0..0.2:0.1")]
    ask = Ask(("optimizer.lr=1,2",))
    assert points(axes, ask) == [
        [f"optimizer.lr={lr}", f"optimizer.beta1={beta}"] for lr in "12" for beta in ("0", "0.1", "0.2")
    ]
    with pytest.raises(ValueError, match=r"--over optimizer.lr: a range needs a step"):
        points([parse_axis("optimizer.lr=0..1")], ask)


def test_a_random_search_depends_only_on_its_seed_and_repeats_no_setting() -> None:
    axes = [parse_axis("optimizer.lr=2^-10..2^-3"), parse_axis("train.global_batch_size=8..64")]
    drawn = [points(axes, Ask(("x=1",), search="random", num_trials=20, search_seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(row) for row in drawn[0]}) == 20
    few = points([parse_axis("optimizer.lr=1,2,3")], Ask(("x=1",), search="random", num_trials=20))
    assert sorted(row[0][-1] for row in few) == ["1", "2", "3"]


def test_a_value_in_two_notations_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--over names optimizer.lr=0.001 twice"):
        check_distinct(settings("1e-3", "0.001"))


@given(st.integers(1, 1000))
def test_halving_ends_with_all_tokens_and_enough_settings_for_a_parabola(num_settings: int) -> None:
    rungs = shares(num_settings, Ask(("x=1",), search="halving"))
    assert rungs[-1] == 1
    assert all(later == KEPT_OF * earlier for earlier, later in pairwise(rungs))
    left = num_settings
    for _ in rungs[1:]:
        left = -(-left // KEPT_OF)
    assert left >= min(num_settings, MIN_KEPT)
    assert -(-left // KEPT_OF) < MIN_KEPT
    assert shares(num_settings, Ask(("x=1",))) == [1]


def test_the_best_third_of_each_shape_by_its_mean_over_seeds_is_kept() -> None:
    found = trials([f"2^-{exponent}" for exponent in range(9)], Ask(("x=1",), widths=(64, 128), seeds=(0, 1)))

    def loss(trial: Trial) -> float:
        rate, best = trial.values["optimizer.lr"], {64: 4, 128: 6}[trial.shape[0]]
        assert isinstance(rate, float)
        return abs(-log2(rate) - best) + (10.0 if trial.seed else -10.0)

    chosen = kept(found, {trial.key: loss(trial) for trial in found})
    assert {(shape[0], dict(values)["optimizer.lr"]) for shape, values in chosen} == {
        (width, 2.0**-exponent) for width, best in ((64, 4), (128, 6)) for exponent in (best - 1, best, best + 1)
    }


def test_a_setting_that_diverged_or_failed_with_one_seed_is_the_worst() -> None:
    found = trials(["1", "2", "3"], Ask(("x=1",), seeds=(0, 1)))
    losses: dict[str, float | None] = {trial.key: 5.0 for trial in found}
    losses[found[0].key] = None
    del losses[found[3].key]
    assert [dict(values)["optimizer.lr"] for _, values in kept(found, losses)] == [3.0]
    assert [dict(values)["optimizer.lr"] for _, values in kept(found, {})] == [1.0]  # the first of equal ones
