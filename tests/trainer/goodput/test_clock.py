"""At each moment the clock counts for exactly one cause."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.goodput.causes import LABELS
from foretrain.trainer.goodput.clock import Clock


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


causes = st.sampled_from([*LABELS])
actions = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.0, 1e3)),
    st.tuples(st.just("enter"), causes),
    st.tuples(st.just("within"), causes | st.none()),
    st.tuples(st.just("move"), st.floats(-1.0, 1e3), causes, causes),
)


def act(clock: Clock, time: Time, todo: Iterator[tuple]) -> None:
    """Do all actions; those after a `within` happen inside its block."""
    with ExitStack() as blocks:
        for name, *values in todo:
            if name == "pass":
                time.now_s += values[0]
            elif name == "within":
                blocks.enter_context(clock.within(*values))
            else:
                getattr(clock, name)(*values)


@given(todo=st.lists(actions, max_size=30))
def test_whatever_is_entered_and_moved_the_causes_add_up_to_the_time_and_none_is_negative(todo: list[tuple]) -> None:
    time = Time()
    clock = Clock("start_up", time)
    act(clock, time, iter(todo))
    spent_s = clock.read()
    assert sum(spent_s.values()) == pytest.approx(time.now_s - 5.0)
    assert min(spent_s.values()) >= -1e-9


def test_the_time_of_a_block_is_its_own_and_that_of_a_block_in_it_is_not() -> None:
    time = Time()
    clock = Clock("other", time)
    with clock.within("checkpoint"):
        time.now_s += 1.0
        with clock.within("evaluation"):
            time.now_s += 2.0
        with clock.within(None):
            time.now_s += 4.0
    time.now_s += 8.0
    assert clock.read() == {"checkpoint": 5.0, "evaluation": 2.0, "other": 8.0}


def test_a_block_that_raises_gives_the_time_after_it_back() -> None:
    time = Time()
    clock = Clock("other", time)
    with pytest.raises(ValueError, match="full"), clock.within("checkpoint"):
        raise ValueError("full")
    time.now_s += 1.0
    assert clock.read() == {"other": 1.0, "checkpoint": 0.0}


def test_what_is_forgotten_is_what_was_read() -> None:
    time = Time()
    clock = Clock("other", time)
    time.now_s += 1.0
    assert clock.read() == {"other": 1.0}
    time.now_s += 2.0
    clock.forget()
    assert clock.read() == {"other": 2.0}
