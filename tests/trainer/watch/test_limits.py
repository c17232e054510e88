"""No sound step is late, and a hang is noticed before a collective's own timeout."""

from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.watch.limits import LONG_FACTOR, NUM_FIRST, STEP, Limits, usual

SECONDS = st.floats(1e-3, 1e4)


def after(durations: list[float], floor_s: float, timeout_s: float, phase: str = STEP) -> float:
    """The limit of the next phase after phases of these durations."""
    limits = Limits(floor_s, timeout_s)
    for duration_s in durations:
        limits.add(phase, duration_s)
    return limits.limit_s(phase)


@given(st.lists(SECONDS, max_size=200), SECONDS, SECONDS, st.sampled_from([STEP, "checkpoint"]))
def test_no_phase_is_late_within_the_floor(
    durations: list[float], floor_s: float, timeout_s: float, phase: str
) -> None:
    assert after(durations, floor_s, timeout_s, phase) >= floor_s


@given(st.lists(SECONDS, min_size=NUM_FIRST, max_size=99), SECONDS, SECONDS)
def test_no_step_is_late_within_twice_of_what_is_usual(
    durations: list[float], floor_s: float, timeout_s: float
) -> None:
    assert after(durations, floor_s, timeout_s) >= 2 * usual(durations)


@given(st.lists(st.floats(0.9, 1.1), min_size=NUM_FIRST, max_size=99), st.floats(0.1, 1.0), SECONDS)
def test_a_step_of_ten_times_the_usual_duration_is_late(
    durations: list[float], floor_s: float, timeout_s: float
) -> None:
    assert after(durations, floor_s, timeout_s) < 10


@given(st.lists(st.floats(0.01, 10), max_size=99), st.floats(1, 200), st.floats(300, 1e4))
def test_a_late_step_is_noticed_before_the_timeout_of_its_collectives(
    durations: list[float], floor_s: float, timeout_s: float
) -> None:
    assert after(durations, floor_s, timeout_s) <= 0.9 * timeout_s


@given(st.lists(st.floats(0.9, 1.1), min_size=50, max_size=90), st.lists(st.floats(1e3, 1e4), max_size=9))
def test_a_few_very_long_steps_do_not_move_the_limit(durations: list[float], outliers: list[float]) -> None:
    assert after(outliers + durations, 1.0, 1e6) < 10


@given(st.lists(SECONDS, min_size=1, max_size=50), SECONDS)
def test_what_follows_a_step_may_take_five_times_the_longest_so_far(durations: list[float], floor_s: float) -> None:
    assert after(durations, floor_s, 600.0, "checkpoint") == max(LONG_FACTOR * floor_s, 5 * max(durations))


@given(st.lists(SECONDS, max_size=50), SECONDS)
def test_the_durations_of_other_phases_do_not_move_the_limit_of_steps(durations: list[float], floor_s: float) -> None:
    limits = Limits(floor_s, 600.0)
    for duration_s in durations:
        limits.add("checkpoint", duration_s)
    assert limits.limit_s(STEP) == after([], floor_s, 600.0)
