"""The seconds of a run's life are divided completely among causes, whatever happens to the run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.causes import LABELS, Cause
from foretrain.trainer.goodput.facts import LEDGER_FILE, Fact, Kind
from foretrain.trainer.goodput.ledger import Ledger, of_training

KINDS: tuple[Kind, ...] = get_args(Kind)
seconds = st.floats(0.0, 1e6)


@st.composite
def any_fact(draw: st.DrawFn) -> tuple[float, Fact]:
    """A fact with any values, and the seconds that nobody has measured before it. Its time is set later."""
    step = draw(st.none() | st.integers(0, 50))
    fact = Fact(
        kind=draw(st.sampled_from(KINDS)),
        at_s=0.0,
        job=draw(st.sampled_from(["", "7", "8"])),
        queued=draw(st.booleans()),
        step=step,
        steps=draw(st.integers(0, step or 0)),
        spent_s=draw(st.dictionaries(st.sampled_from([*LABELS]), seconds)),
    )
    return draw(seconds), fact


def in_time(drawn: Sequence[tuple[float, Fact]], offsets_s: Sequence[float] = ()) -> list[Fact]:
    """The facts with their times, by clocks that are wrong by the offsets."""
    at_s, found = 1.7e9, []
    for number, (gap_s, fact) in enumerate(drawn):
        at_s += gap_s + sum(fact.spent_s.values())
        found.append(replace(fact, at_s=at_s + (offsets_s[number] if offsets_s else 0.0)))
    return found


def life_s(history: Sequence[Fact]) -> float:
    """Seconds from the first moment that the facts know of to the last one."""
    return history[-1].at_s - history[0].at_s + sum(history[0].spent_s.values())


def check_sum(history: Sequence[Fact], ledger_type: type[Ledger] = Ledger) -> None:
    ledger = ledger_type(history)
    assert sum(ledger.seconds.values()) == pytest.approx(life_s(history), rel=1e-9, abs=1e-3)


@given(drawn=st.lists(any_fact(), min_size=1, max_size=20))
def test_for_any_facts_the_causes_add_up_to_the_time_from_the_first_to_the_last(
    drawn: list[tuple[float, Fact]],
) -> None:
    check_sum(in_time(drawn))


@given(drawn=st.lists(st.tuples(any_fact(), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_clocks_that_disagree_make_no_cause_negative_and_lose_nothing_that_was_measured(
    drawn: list[tuple[tuple[float, Fact], float]],
) -> None:
    history = in_time([fact for fact, _ in drawn], [offset_s for _, offset_s in drawn])
    ledger = Ledger(history)
    assert min(ledger.seconds.values()) >= -1e-6
    assert ledger.life_s >= sum(sum(fact.spent_s.values()) for fact in history) - 1e-3


def session(at_s: float, step_s: Sequence[float], start: int, *, steps_of_a_line: int) -> list[Fact]:
    """The facts of a session that takes steps of that many seconds after step `start`."""
    history = [Fact("begin", at_s, step=start)]
    for first in range(0, len(step_s), steps_of_a_line):
        of_line = step_s[first : first + steps_of_a_line]
        at_s, done = at_s + sum(of_line), start + first + len(of_line)
        history.append(Fact("steps", at_s, step=done, steps=len(of_line), spent_s={"step": sum(of_line)}))
    return history


def sessions(starts_and_steps: Sequence[tuple[int, Sequence[float]]], steps_of_a_line: int = 1) -> list[Fact]:
    """The facts of sessions, a second apart: each begins at a step and takes steps of that many seconds."""
    history: list[Fact] = []
    for start, step_s in starts_and_steps:
        at_s = history[-1].at_s + 1.0 if history else 1e9
        history += session(at_s, step_s, start, steps_of_a_line=steps_of_a_line)
    return history


def check_lost(starts_and_steps: Sequence[tuple[int, Sequence[float]]], ledger_type: type[Ledger] = Ledger) -> None:
    """Assert that of each step that was done several times, the last time alone counts as a good step."""
    ledger = ledger_type(sessions(starts_and_steps))
    last: dict[int, float] = {}
    for start, step_s in starts_and_steps:
        last = {step: time_s for step, time_s in last.items() if step <= start}
        last |= {start + 1 + number: time_s for number, time_s in enumerate(step_s)}
    everything = [time_s for _, step_s in starts_and_steps for time_s in step_s]
    assert ledger.seconds["step"] == pytest.approx(sum(last.values()))
    assert ledger.seconds["lost"] == pytest.approx(sum(everything) - sum(last.values()))
    assert ledger.num_lost == len(everything) - len(last)


@st.composite
def any_sessions(draw: st.DrawFn) -> list[tuple[int, list[float]]]:
    """Sessions, each of which resumes at any step that was reached before."""
    reached, found = 0, []
    for _ in range(draw(st.integers(1, 6))):
        start, step_s = draw(st.integers(0, reached)), draw(st.lists(st.floats(0.1, 10.0), max_size=8))
        found.append((start, step_s))
        reached = start + len(step_s)
    return found


@given(drawn=any_sessions())
def test_lost_steps_are_exactly_those_that_a_later_start_takes_again(drawn: list[tuple[int, list[float]]]) -> None:
    check_lost(drawn)


@given(drawn=any_sessions(), steps_of_a_line=st.integers(1, 4))
def test_a_line_of_several_steps_loses_its_share_of_them(
    drawn: list[tuple[int, list[float]]], steps_of_a_line: int
) -> None:
    equal = [(start, [2.0] * len(step_s)) for start, step_s in drawn]
    ledger, exact = Ledger(sessions(equal, steps_of_a_line)), Ledger(sessions(equal))
    assert ledger.num_lost == exact.num_lost
    assert ledger.seconds == pytest.approx(exact.seconds, abs=1e-3)


class CountsTwice(Ledger):
    """A planted bug: an evaluation counts twice."""

    def add(self, fact: Fact) -> None:
        super().add(fact)
        self.seconds["evaluation"] += fact.spent_s.get("evaluation", 0.0)


class LosesNothing(Ledger):
    """A planted bug: no start takes steps from an earlier one."""

    def add(self, fact: Fact) -> None:
        super().add(replace(fact, step=None))


def test_the_checks_find_a_cause_that_counts_twice_and_lost_steps_that_stay_good() -> None:
    killed = [(0, [1.0, 2.0, 3.0]), (2, [1.0])]
    check_lost(killed)
    with pytest.raises(AssertionError):
        check_lost(killed, LosesNothing)
    history = [Fact("begin", 0.0, step=0), Fact("end", 3.0, spent_s={"evaluation": 3.0})]
    check_sum(history)
    with pytest.raises(AssertionError):
        check_sum(history, CountsTwice)


def spent(*history: Fact) -> dict[str, float]:
    """Seconds by cause, without the causes that have none."""
    return {cause: time_s for cause, time_s in Ledger(history).seconds.items() if time_s}


def test_time_between_facts_belongs_to_what_the_run_waits_for() -> None:
    first = Fact("launch", 0.0), Fact("start", 100.0, job="7", queued=True), Fact("process", 101.0)
    trained = Fact("begin", 110.0, step=0), Fact("steps", 120.0, step=5, steps=5, spent_s={"step": 10.0})
    assert spent(*first, *trained) == {"queue": 100.0, "start_up": 10.0, "step": 10.0}
    by_cluster = Fact("start", 150.0, job="7", queued=True)
    assert spent(*trained, by_cluster) == {"step": 10.0, "down": 30.0}, "the job is not known to have waited"
    assert spent(*first, *trained, by_cluster)["queue"] == 130.0, "its cluster has put it back into the queue"
    other_job = replace(by_cluster, job="8")
    assert spent(*first, *trained, other_job)["down"] == 30.0
    assert spent(*first, *trained, Fact("launch", 130.0), other_job) == {
        "queue": 120.0,
        "start_up": 10.0,
        "step": 10.0,
        "down": 10.0,
    }


def test_starts_on_one_machine_wait_for_no_queue() -> None:
    start = Fact("start", 1.0, job="local-7")
    again = Fact("start", 13.0, job="local-7"), Fact("process", 13.5), Fact("begin", 20.0, step=0)
    trained = Fact("begin", 5.0, step=0), Fact("steps", 10.0, step=5, steps=5, spent_s={"step": 5.0})
    assert spent(Fact("launch", 0.0), start, *trained, *again) == {"start_up": 12.0, "lost": 5.0, "down": 3.0}


def test_a_start_that_ends_before_its_first_step_was_start_up() -> None:
    assert spent(*[Fact("start", float(at_s), job="local-7") for at_s in range(4)]) == {"start_up": 3.0}


def test_a_complete_run_that_is_launched_again_has_the_same_account() -> None:
    trained = [
        Fact("launch", 0.0),
        Fact("begin", 5.0, step=0),
        Fact("end", 9.0, step=2, steps=2, spent_s={"step": 4.0}),
    ]
    looked_at = [*trained, Fact("launch", 1e6), Fact("start", 1e6, job="local-8")]
    assert of_training(looked_at).seconds == of_training(trained).seconds == Ledger(trained).seconds
    assert of_training(looked_at[:1]).life_s == 0


def test_facts_are_read_back_equal_and_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    history = [
        Fact("launch", 1.5),
        Fact("start", 2.5, job="7", queued=True),
        Fact("begin", 3.5, step=0, spent_s={"start_up": 0.25}),
        Fact("steps", 9.5, step=7, steps=7, spent_s={"step": 5.0, "data_wait": 1.0}),
    ]
    for fact in history[:-1]:
        facts.append(tmp_path, fact)
    with (tmp_path / LEDGER_FILE).open("a") as file:
        file.write('{"kind": "steps", "at_s": 5.0, "st')
    facts.append(tmp_path, history[-1])
    assert facts.read(tmp_path) == history
    assert facts.read(tmp_path / "elsewhere") == []


@given(cut=st.integers(0, 10**4), drawn=st.lists(any_fact(), min_size=1, max_size=5))
def test_a_ledger_cut_at_any_byte_is_the_account_of_the_lines_before(
    cut: int, drawn: list[tuple[float, Fact]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, history = tmp_path_factory.mktemp("run"), in_time(drawn)
    for fact in history:
        facts.append(folder, fact)
    content = (folder / LEDGER_FILE).read_bytes()[:cut]
    (folder / LEDGER_FILE).write_bytes(content)
    found = facts.read(folder)
    assert found == history[: len(found)]
    assert len(found) >= content.count(b"}\n")


def test_the_start_of_this_process_is_known() -> None:
    # psutil knows the start of the machine only to a second.
    assert facts.process_start_s() == pytest.approx(psutil.Process().create_time(), abs=2.0)


def test_every_cause_has_a_label() -> None:
    assert set(LABELS) == set(get_args(Cause))
