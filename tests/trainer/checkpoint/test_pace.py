"""A writer uses its share of a core beside training, and all of it as soon as somebody waits."""

import time
from threading import Thread

import pytest

from foretrain.trainer.checkpoint.pace import Pace, share_beside


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = self.cpu_s = 0.0
        self.waited_s = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu_s)

    def compute(self, seconds: float) -> None:
        self.now_s += seconds
        self.cpu_s += seconds

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.waited_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def paced(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Pace:
    pace = Pace(0.25)
    monkeypatch.setattr(pace.is_awaited, "wait", clock.wait)
    pace.pause()
    return pace


def test_a_writer_uses_its_share_of_the_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = paced(clock, monkeypatch)
    for _ in range(10):
        clock.compute(1.0)
        pace.pause()
    assert clock.cpu_s / clock.now_s == pytest.approx(0.25)


def test_time_for_which_it_waited_for_a_disk_is_not_waited_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = paced(clock, monkeypatch)
    clock.compute(1.0)
    clock.now_s += 2.0
    pace.pause()
    assert clock.waited_s == pytest.approx(1.0)
    clock.compute(1.0)
    clock.now_s += 10.0
    pace.pause()
    assert clock.waited_s == pytest.approx(1.0)


def test_a_slow_disk_does_not_let_it_catch_up_later(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = paced(clock, monkeypatch)
    clock.now_s += 100.0
    pace.pause()
    clock.compute(1.0)
    pace.pause()
    assert clock.waited_s == pytest.approx(3.0)


def test_beside_steps_on_the_same_processor_a_writer_is_slower() -> None:
    assert 0 < share_beside("cpu") < share_beside("cuda") < 1


def test_a_pause_ends_and_none_follows_when_somebody_waits() -> None:
    pace = Pace(1e-9)
    pace.pause()

    def work() -> None:
        for _ in range(3):
            sum(range(10_000))
            pace.pause()  # hours, at this share

    writer = Thread(target=work, daemon=True)
    writer.start()
    pace.hurry()
    writer.join(timeout=60)
    assert not writer.is_alive()
