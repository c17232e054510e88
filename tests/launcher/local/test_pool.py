"""A pool runs many calls on one machine: each ends by itself, and no rank outlives the pool."""

import time
from collections import deque
from pathlib import Path

import psutil

from foretrain.launcher.local.forwarding import Stop
from foretrain.launcher.local.pool import Call, RankPool
from tests.launcher.local import workers

SLOTS = [{"SLOT": "first"}, {"SLOT": "second"}]


def call(key: str, function: str, *args: object, **options: object) -> Call:
    return Call(key, f"{workers.__name__}:{function}", args, keep_result=True, **options)  # type: ignore[arg-type]


def pid_in(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / "pid-0"


def test_each_call_ends_by_itself_whatever_the_others_do(tmp_path: Path) -> None:
    late, early = pid_in(tmp_path / "late"), pid_in(tmp_path / "early")
    waiting = deque(
        [
            call("late", "hang", str(late.parent), timeout_s=3.0),
            call("returns", "env", "SLOT"),
            call("fails", "bad_config"),
            call("cannot start", "env", world_size=0),
            call("two ranks", "env", "RANK", world_size=2),
            call("early", "hang", str(early.parent), end_early=early.exists),
        ]
    )
    expected, started = [each.key for each in waiting], []
    ends = {}
    for end in RankPool(SLOTS).run(waiting, on_start=lambda call: started.append(call.key)):
        ends[end.call.key] = end
    assert started == expected
    assert ends["returns"].problem is None and ends["returns"].values() == [{"SLOT": "second"}]
    assert ends["two ranks"].values() == [{"RANK": "0"}, {"RANK": "1"}]
    assert str(ends["fails"].problem).startswith("rank 0 failed: ValueError: train.lr = -1")
    assert "world_size = 0" in str(ends["cannot start"].problem)
    assert "ranks [0] still ran after" in str(ends["late"].problem)
    assert ends["early"].failure is None and ends["early"].outcomes == {}
    assert not [pid for pid in (late, early) if pid.exists() and psutil.pid_exists(int(pid.read_text()))]


def test_a_pool_that_is_asked_to_stop_starts_no_further_call_and_leaves_no_rank(tmp_path: Path) -> None:
    stop, pid = Stop(), pid_in(tmp_path)
    waiting = deque([call("first", "hang", str(tmp_path)), call("second", "env", "SLOT")])

    def stop_once_it_runs() -> bool:
        if pid.exists() and stop.signum is None:
            stop.signum, stop.deadline_s = 15, time.monotonic() + 1
        return False

    waiting[0] = call("first", "hang", str(tmp_path), end_early=stop_once_it_runs)
    assert list(RankPool(SLOTS[:1]).run(waiting, stop)) == []
    assert [each.key for each in waiting] == ["second"]
    assert not psutil.pid_exists(int(pid.read_text()))
