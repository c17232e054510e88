"""Each end is reported once, also that of a task that vanished, and a cluster may be silent for a while."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from foretrain.launcher.array import watch as watching
from foretrain.launcher.array.ending import record_end
from foretrain.launcher.array.watch import watch


def asked(*answers: Collection[str] | None) -> Callable[[], Collection[str]]:
    """A cluster that answers so, one after the other; None: not at all."""
    left = iter(answers)

    def unfinished() -> Collection[str]:
        answer = next(left)
        if answer is None:
            raise ValueError("no answer")
        return answer

    return unfinished


def test_each_end_is_reported_once_and_a_task_that_vanished_after_a_second_look(tmp_path: Path) -> None:
    for name, status in (("b", 0), ("c", 1)):
        record_end(tmp_path, name, "7", status, 3)
    ends = watch(tmp_path, ["a", "b", "c", "d"], asked("abcd", None, "d", "d", "", ""), 0.0)
    result = [(ended.name, ended.status, ended.log) for ended in ends]
    log = tmp_path / "logs"
    assert result == [
        ("b", 0, log / "b.log"),
        ("c", 1, log / "c.log"),
        ("a", None, log / "a.log"),
        ("d", None, log / "d.log"),
    ]


def test_an_end_that_is_seen_late_is_no_loss(tmp_path: Path) -> None:
    def late() -> Collection[str]:
        calls.append(None)
        if len(calls) == 2:
            record_end(tmp_path, "a", "7", 0, 3)
        return ()

    calls: list[None] = []
    assert [ended.status for ended in watch(tmp_path, ["a"], late, 0.0)] == [0]


def test_a_cluster_that_stays_silent_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SILENCE_S", -1.0)
    with pytest.raises(ValueError, match="no answer"):
        next(watch(tmp_path, ["a"], asked(None), 0.0))
