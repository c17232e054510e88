"""The statistic finds spikes of a stated size, and takes no sound curve for one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.trainer.anomalies.statistic import WINDOW, SpikeStatistic

K = 10.0


def power_law(seed: int, num_steps: int, noise: float, exponent: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses that fall from about 10 to 2 with normal noise, and gradient norms with log-normal noise."""
    rng, steps = np.random.default_rng(seed), np.arange(1, num_steps + 1)
    losses = 2 + 8 * steps**-exponent + noise * rng.standard_normal(num_steps)
    norms = np.exp(3 * noise * rng.standard_normal(num_steps)) * (0.3 + 5 * steps**-0.5 * np.minimum(1, steps / 20))
    return losses, norms


def alarms(losses: np.ndarray, norms: np.ndarray) -> list[int]:
    """The indices of the steps that are taken for spikes; the statistic sees only the others."""
    statistic, found = SpikeStatistic(), []
    for index, (loss, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True)):
        if statistic.spike(loss, norm, K):
            found.append(index)
        else:
            statistic.add(loss, norm)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.0, 0.3), st.floats(0.05, 1.0))
def test_a_power_law_with_noise_raises_no_alarm(seed: int, noise: float, exponent: float) -> None:
    assert alarms(*power_law(seed, 500, noise, exponent)) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.001, 0.1), st.integers(200, 400), st.booleans())
def test_a_spike_of_40_standard_deviations_is_found(seed: int, noise: float, at: int, is_in_loss: bool) -> None:
    losses, norms = power_law(seed, 500, noise, 0.5)
    if is_in_loss:
        losses[at] += 40 * max(noise, 0.01 * losses[at])
    else:
        norms[at] *= math.exp(40 * max(3 * noise, 0.06))
    assert alarms(losses, norms) == [at]


@given(st.lists(st.floats(1e-3, 1e3), max_size=WINDOW - 1), st.floats(0, 1e30), st.floats(0, 1e30))
def test_nothing_is_judged_until_the_window_is_full(values: list[float], loss: float, norm: float) -> None:
    statistic = SpikeStatistic()
    for value in values:
        statistic.add(value, value)
    assert not statistic.spike(loss, norm, K)


def test_a_higher_level_is_sound_after_some_steps_on_it() -> None:
    statistic, flagged = SpikeStatistic(), []
    for step in range(200):
        loss = 3.0 if step < 100 else 6.0
        flagged.append(bool(statistic.spike(loss, 1.0, K)))
        statistic.add(loss, 1.0)  # as with the policy `warn`
    assert not any(flagged[:100])
    assert flagged[100]
    assert not any(flagged[140:])


def test_a_fall_of_any_size_is_no_spike() -> None:
    statistic = SpikeStatistic()
    for _ in range(100):
        statistic.add(5.0, 1.0)
    assert not statistic.spike(0.01, 1e-9, K)
    assert not statistic.spike(0.0, 0.0, K)


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), max_size=150), st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_statistic_made_from_its_state_decides_the_same(
    steps: list[tuple[float, float]], loss: float, norm: float
) -> None:
    statistic = SpikeStatistic()
    for step in steps:
        statistic.add(*step)
    again = SpikeStatistic(**statistic.state())
    assert again.spike(loss, norm, K) == statistic.spike(loss, norm, K)
    statistic.add(1.0, 1.0)
    again.add(1.0, 1.0)
    assert again.state() == statistic.state()


def test_the_message_names_what_is_too_high_and_its_limit() -> None:
    statistic = SpikeStatistic()
    for _ in range(WINDOW):
        statistic.add(4.0, 1.0)
    assert statistic.spike(5.0, 3.0, K) == "loss 5.0000 is above 4.2000 and gradient norm 3 is above 2.718"


@pytest.mark.long
def test_200_000_sound_steps_raise_no_alarm() -> None:
    for seed in range(20):
        assert alarms(*power_law(seed, 10_000, 0.05, 0.3)) == []
