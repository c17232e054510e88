"""Which failure is taken for the cause."""

from hypothesis import given
from hypothesis import strategies as st

from foretrain.launcher.local.outcome import Exited, Outcome, Raised, Returned
from foretrain.launcher.local.report import first_failure, headline, is_decision


def raised(rank: int, at_s: float, is_communication: bool) -> Outcome:
    report = Raised("RuntimeError", "boom", "Traceback", at_s, is_user_error=False, is_communication=is_communication)
    return Outcome(rank, report, 1, at_s)


def killed(rank: int, at_s: float, signum: int) -> Outcome:
    return Outcome(rank, None, -signum, at_s)


def exited(rank: int, at_s: float, code: int) -> Outcome:
    return Outcome(rank, Exited(code, "", at_s), code, at_s)


def returned(rank: int) -> Outcome:
    return Outcome(rank, Returned(None), 0, 0.0)


times_s = st.floats(0, 10)
causes = st.one_of(
    st.builds(raised, st.integers(0, 9), times_s, st.just(False)),
    st.builds(killed, st.integers(0, 9), times_s, st.sampled_from([9, 11, 15])),
    st.builds(exited, st.integers(0, 9), times_s, st.integers(1, 255)),
)
victims = st.one_of(
    st.builds(raised, st.integers(10, 19), times_s, st.just(True)),
    st.builds(killed, st.integers(10, 19), times_s, st.just(6)),
)
successes = st.builds(returned, st.integers(20, 29))


@given(st.lists(causes, min_size=1), st.lists(victims), st.lists(successes), st.randoms())
def test_the_earliest_cause_is_chosen_before_any_victim(
    causes: list[Outcome], victims: list[Outcome], successes: list[Outcome], random: object
) -> None:
    outcomes = [*causes, *victims, *successes]
    random.shuffle(outcomes)  # type: ignore[attr-defined]
    chosen = first_failure(outcomes)
    assert chosen in causes
    assert chosen.at_s == min(cause.at_s for cause in causes)


@given(st.lists(victims, min_size=1), st.lists(successes))
def test_a_victim_is_chosen_where_there_is_no_cause(victims: list[Outcome], successes: list[Outcome]) -> None:
    assert first_failure([*successes, *victims]) in victims


@given(st.lists(successes))
def test_successes_hold_no_failure(successes: list[Outcome]) -> None:
    assert first_failure(successes) is None


def test_an_abort_is_likelier_the_cause_than_a_lost_connection() -> None:
    assert first_failure([raised(0, 1.0, True), killed(1, 2.0, 6)]) == killed(1, 2.0, 6)


def test_a_rank_that_raised_but_still_runs_has_failed() -> None:
    hanging = Outcome(0, Raised("E", "", "", 0.0, is_user_error=False, is_communication=False), None, 0.0)
    assert hanging.failed
    assert hanging.status == 1
    assert headline(hanging) == "rank 0 failed: E"


def test_only_a_status_that_all_ranks_chose_is_a_decision() -> None:
    assert is_decision([exited(0, 1.0, 85), exited(1, 2.0, 85)])
    assert not is_decision([exited(0, 1.0, 85), exited(1, 2.0, 1)])
    assert not is_decision([exited(0, 1.0, 85), returned(1)])
    assert not is_decision([exited(0, 1.0, 85), killed(1, 2.0, 15)])
    assert not is_decision([Outcome(0, Exited(1, "why", 0.0), 1, 0.0)])


def test_every_signal_has_a_name() -> None:
    assert headline(killed(0, 0.0, 9)) == "rank 0 was killed by SIGKILL (out of memory?)"
    assert headline(killed(0, 0.0, 40)) == "rank 0 was killed by signal 40"
    assert killed(0, 0.0, 40).status == 168
