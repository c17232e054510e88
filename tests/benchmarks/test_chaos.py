"""The benchmark that kills runs sees what they leave, curves that differ, and runs that end by themselves."""

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.chaos.__main__ import app
from benchmarks.chaos.attack import Attack, ChaosError, Kill
from benchmarks.chaos.campaign import Verdict
from benchmarks.chaos.target import MARK, SHARED_MEMORY, Target, unused_shared_memory
from benchmarks.data.__main__ import machine
from benchmarks.gpu.curves import compare
from tests.processes import wait_until

CURVE = [{"step": step, "loss": 5.0 / step, "grad_norm": 1.0} for step in range(1, 9)]
GOOD = Verdict(False, [Kill("rank", "save", 4)], ["dp=2"], compare(CURVE, CURVE), has_same_records=True, left=[])


def changed(factor: float) -> list[dict[str, float]]:
    """CURVE with another loss at its last step."""
    return [*CURVE[:-1], {**CURVE[-1], "loss": CURVE[-1]["loss"] * factor}]


def test_a_run_with_another_loss_at_one_step_fails() -> None:
    assert GOOD.passed
    assert not replace(GOOD, has_same_records=False).passed


@pytest.mark.parametrize(("factor", "passes"), [(1 + 1e-7, True), (1 + 1e-4, False), (float("nan"), False)])
def test_a_run_whose_layout_changes_may_differ_by_float_noise_alone(factor: float, passes: bool) -> None:
    verdict = replace(GOOD, changes_layout=True, has_same_records=False, curve=compare(changed(factor), CURVE))
    assert verdict.passed == passes


def test_a_run_that_lacks_a_step_fails() -> None:
    assert not replace(GOOD, changes_layout=True, curve=compare(CURVE[:-1], CURVE)).passed


def test_a_run_that_leaves_something_fails() -> None:
    assert not replace(GOOD, left=["temporary file x"]).passed


def test_processes_temporary_files_and_incomplete_checkpoints_that_are_left_are_named(tmp_path: Path) -> None:
    target = Target(tmp_path, tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "run/checkpoints/step-00000004").mkdir(parents=True)
    assert target.left_behind(unused_shared_memory()) == []
    (tmp_path / "tmp/socket").touch()
    (tmp_path / "run/checkpoints/partial-step-00000008").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={MARK: str(tmp_path)}) as left:
        wait_until(lambda: [process.pid for process in target.processes()] == [left.pid], "the process")
        found = target.left_behind(unused_shared_memory())
        left.kill()
    assert [words.partition(" ")[0] for words in found] == ["process", "temporary", "checkpoint"]


def test_shared_memory_that_nobody_uses_is_found() -> None:
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, delete=False) as file:
        path = Path(file.name)
        assert path not in unused_shared_memory()
    assert path in unused_shared_memory()
    path.unlink()


def test_a_run_that_ends_without_a_kill_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(ChaosError, match=r"status 2 after 0 kills:\n(.|\n)*there is no corpus at"):
        Attack(Target(tmp_path, tmp_path / "nowhere"), 0, random.Random(0)).run()


def test_a_benchmark_that_was_stopped_continues_and_one_that_is_complete_does_nothing_more(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    header = {"type": "header", "kills": 3, "per_run": 2, "seed": 0, **machine()}
    runs = [{"type": "run", "passed": True, "kills": kills} for kills in (2, 1)]
    out.write_text("".join(f"{json.dumps(each)}\n" for each in (header, *runs)))
    again = CliRunner().invoke(app, ["--kills", "3", "--per-run", "2", "--out", str(out)])
    assert again.exit_code == 0 and "3 kills of 2 runs; 0 runs failed" in again.output
    assert [json.loads(line)["type"] for line in out.read_text().splitlines()] == ["header", "run", "run", "summary"]
    other = CliRunner().invoke(app, ["--kills", "4", "--per-run", "2", "--out", str(out)])
    assert other.exit_code == 2 and "give another file" in other.output
