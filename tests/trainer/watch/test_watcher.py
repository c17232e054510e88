"""A late rank that cannot write its report says where it is."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from foretrain.trainer.watch.limits import STEP, Limits
from foretrain.trainer.watch.reports import RankReport
from foretrain.trainer.watch.watcher import Watcher


def snapshot(step: int, phase: str, elapsed_s: float, **late: Any) -> RankReport:
    stacks = {"MainThread": ["train.py:1 in train", "data.py:2 in waits_here"]}
    return RankReport(3, "node1", 1, step, phase, elapsed_s, late["is_late"], False, {}, [], [], stacks)


def test_a_late_rank_that_cannot_write_its_report_says_so_once_in_a_phase_with_its_stack(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hangs").write_text("a file where the folder should be")
    watcher = Watcher(tmp_path / "hangs" / "session", 3, ["node1"] * 4, Limits(0.05, 60.0), snapshot)
    watcher.start(STEP, 7)
    said = ""
    deadline_s = time.monotonic() + 60
    while "waits_here" not in said and time.monotonic() < deadline_s:
        threading.Event().wait(0.05)
        said += capfd.readouterr().err
    threading.Event().wait(0.5)  # many more rounds
    watcher.close()
    said += capfd.readouterr().err
    assert said.count("waits_here") == 1
    assert "step 7 is slow" in said and "The report of rank 3 on node1 cannot be written" in said
    assert str(tmp_path / "hangs") in said
