"""When a trial has diverged."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.scaling.trials.curve import Steps, diverged_at

STEPS = Steps(total=100, warmup=10)
SOUND = [5.0 * math.exp(-step / 40) + 2.0 for step in range(100)]


def judge(losses: list[float], steps: Steps = STEPS) -> int | None:
    return diverged_at(losses, [1.0] * len(losses), steps)


def test_a_curve_that_falls_has_not_diverged() -> None:
    assert judge(SOUND) is None
    noisy = [loss + random.Random(step).uniform(-0.4, 0.4) for step, loss in enumerate(SOUND)]
    assert judge(noisy) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_a_number_has_diverged_there(value: float) -> None:
    assert judge([*SOUND[:30], value, *SOUND[31:]]) == 31
    assert diverged_at(SOUND, [*[1.0] * 49, value, *[1.0] * 50], STEPS) == 50


def test_a_loss_far_above_the_first_has_diverged_when_it_stays_there() -> None:
    assert judge([7.0] * 20 + [8.1] * 80) == 30
    assert judge([7.0] * 20 + [7.9] * 80) is None


def test_a_loss_that_loses_half_of_its_gain_has_diverged() -> None:
    assert judge([*SOUND[:60], *[5.5] * 40]) == 70
    assert judge([*SOUND[:60], *[SOUND[60] + 0.9] * 40]) is None


def test_a_spike_that_recovers_has_not_diverged() -> None:
    assert judge([*SOUND[:50], *[1e3] * 9, *SOUND[59:]]) is None
    assert judge([*SOUND[:50], *[1e3] * 10, *SOUND[60:]]) == 60


def test_a_high_loss_during_warm_up_is_not_divergence() -> None:
    early = [7.0, *[50.0] * 14, *SOUND[15:]]
    assert judge(early, Steps(100, warmup=10)) is None
    assert judge(early, Steps(100, warmup=0)) == 11


@given(
    st.lists(st.one_of(st.floats(0, 20), st.sampled_from([3.0, 30.0, math.nan])), min_size=1, max_size=80),
    st.integers(0, 20),
    st.integers(0, 100),
)
def test_the_answer_does_not_depend_on_when_the_curve_is_read(losses: list[float], warmup: int, cut: int) -> None:
    steps = Steps(80, warmup)
    full = judge(losses, steps)
    early = judge(losses[:cut], steps)
    assert early == (full if full is not None and full <= cut else None)
