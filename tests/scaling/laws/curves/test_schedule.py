"""Schedules: their warm-up, what is refused, and groups of changes that give the loss of the plain sum."""

import numpy as np
import pytest

from foretrain.scaling.laws.curves.law import CurveLaw, curve
from foretrain.scaling.laws.curves.schedule import GROUPING, Schedule
from tests.scaling.laws.curves.cases import LAW, PEAK, plain_sum, schedules

WARMUP = 50
SHORT = schedules(600, WARMUP)
LONG = schedules(20_000, 400)


@pytest.mark.parametrize("name", SHORT)
def test_without_groups_the_loss_is_the_plain_sum(name: str) -> None:
    schedule, steps = Schedule(SHORT[name]), np.array([WARMUP, 51, 130, 299, 325, 400, 598, 599])
    expected = [plain_sum(LAW, schedule.rate_T, step, schedule.num_warmup_steps) for step in steps]
    loss, _ = curve(np.array(list(LAW.values())), schedule.terms(steps, grouping=0.0))
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", LONG)
def test_groups_change_the_loss_by_less_than_stated_and_need_few_terms(name: str) -> None:
    schedule, steps = Schedule(LONG[name]), np.linspace(500, 19_999, 25).astype(int)
    loss, _ = curve(np.array(list(LAW.values())), schedule.terms(steps, grouping=0.0))
    terms = schedule.terms(steps)
    error = np.abs(curve(np.array(list(LAW.values())), terms)[0] / loss - 1).max()
    assert error < (1e-5 if name == "noisy" else 1e-6)
    if name not in ("noisy", "constant"):
        assert 0 < len(terms.drop_M) < 450 * len(steps)


def test_wider_groups_are_worse() -> None:  # so the check above can fail
    schedule, steps = Schedule(LONG["noisy"]), np.array([10_000, 19_999])
    theta_P = np.array(list(LAW.values()))
    exact = curve(theta_P, schedule.terms(steps, grouping=0.0))[0]
    wide = curve(theta_P, schedule.terms(steps, grouping=10 * GROUPING))[0]
    assert np.abs(wide / exact - 1).max() > 1e-4


def test_the_loss_at_all_steps_is_that_at_each_step() -> None:
    law, rate = CurveLaw(**LAW), SHORT["cycles"]
    everywhere = law.loss(rate)
    assert len(everywhere) == 600 - Schedule(rate).num_warmup_steps
    assert everywhere[[100, -1]] == pytest.approx(law.loss(rate, np.array([WARMUP - 1 + 100, 599])), rel=1e-9)


def test_the_warm_up_ends_where_the_rate_is_highest_before_it_first_falls() -> None:
    cases = {
        (1, 1, 1): 0,
        (3, 2, 1): 0,
        (0, 1, 2, 2, 1): 2,
        (0, 0, 1, 1, 2, 2, 1, 3): 4,  # a warm-up may rest
        (1, 2, 3): 2,
    }
    for rates, expected in cases.items():
        assert Schedule(np.array(rates)).num_warmup_steps == expected
    assert Schedule(SHORT["linear to zero"]).num_warmup_steps == WARMUP - 1


def test_a_rate_of_zero_teaches_nothing() -> None:
    rate = np.concatenate([np.full(100, PEAK), np.zeros(50)])
    loss = CurveLaw(**LAW).loss(rate)
    assert loss[100:] == pytest.approx(loss[99])


def test_schedules_and_steps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rate of step 1 is -1: it must be a number >= 0"):
        Schedule(np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"rate of step 0 is nan"):
        Schedule(np.array([np.nan, 1.0]))
    with pytest.raises(ValueError, match="the learning rate is zero in all steps"):
        Schedule(np.zeros(3))
    with pytest.raises(ValueError, match="a list of rates, one for each step"):
        Schedule(np.ones((2, 2)))
    schedule = Schedule(SHORT["constant"])
    for step in (WARMUP - 2, 600):
        with pytest.raises(ValueError, match=f"step {step} is not one of the steps 49 to 599"):
            schedule.terms(np.array([100, step]))
    with pytest.raises(ValueError, match="steps must be a list of integers"):
        schedule.terms(np.array([100.0]))
