"""The record of a run: complete after any kill, one curve after any resume."""

import json
import math
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foretrain.configs.schema import Config
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE, final_loss, read_metrics, rewind, to_line
from foretrain.trainer.recorded_curve import RecordedCurve
from foretrain.trainer.sinks import JsonLinesSink, Reporter, Session, TensorBoardSink


def train_metrics(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "samples": 4 * step, "tokens": 64 * step, "loss": loss, "lr": 1e-3, "step_s": 0.1}


def writer(run_dir: Path, resume_step: int = 0) -> Reporter:
    """A reporter with the sinks that write files."""
    return Reporter([JsonLinesSink(), TensorBoardSink()], Session(Config(), run_dir, resume_step, 100, 64))


def write_steps(run_dir: Path, first: int, last: int, *, resume_step: int = 0, loss: float = 1.0) -> None:
    with writer(run_dir, resume_step) as report:
        for step in range(first, last + 1):
            report.step(train_metrics(step, loss))


def losses_by_step(run_dir: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in read_metrics(run_dir / METRICS_FILE)]


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    with writer(tmp_path) as report:
        report.step(train_metrics(1, 2.5))
        report.evaluation(1, HeldOutLoss(2.75))
    assert read_metrics(tmp_path / METRICS_FILE) == [
        {"kind": "train", **train_metrics(1, 2.5)},
        {"kind": "eval", "step": 1, "val_loss": 2.75},
    ]


def test_a_step_is_in_the_file_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    with writer(tmp_path) as report:
        report.step(train_metrics(1, 2.5))
        assert losses_by_step(tmp_path) == [(1, 2.5)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stays_valid_json_and_comes_back(tmp_path: Path, value: float) -> None:
    with writer(tmp_path) as report:
        report.step(train_metrics(1, value))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in (tmp_path / METRICS_FILE).read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert read_metrics(tmp_path / METRICS_FILE)[0]["loss"] == pytest.approx(value, nan_ok=True)


def test_a_resumed_run_drops_the_steps_it_will_take_again(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 7)
    with writer(tmp_path, resume_step=7) as report:
        report.evaluation(7, HeldOutLoss(1.5))
        report.step(train_metrics(8, 1.0))
    write_steps(tmp_path, 6, 9, resume_step=5, loss=2.0)
    assert losses_by_step(tmp_path) == [(step, 1.0 if step <= 5 else 2.0) for step in range(1, 10)]


def test_a_fresh_start_in_a_used_folder_keeps_nothing(tmp_path: Path) -> None:
    with writer(tmp_path) as report:
        report.evaluation(0, HeldOutLoss(9.0))
        report.step(train_metrics(1, 1.0))
    write_steps(tmp_path, 1, 2, loss=2.0)
    assert losses_by_step(tmp_path) == [(1, 2.0), (2, 2.0)]


@given(cut=st.integers(0, 200))
def test_a_file_cut_anywhere_loses_at_most_the_line_that_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("run") / METRICS_FILE
    content = b"".join(b'{"kind": "train", "step": %d, "loss": 2.125}\n' % step for step in range(1, 6))
    path.write_bytes(content[:cut])
    kept = read_metrics(path)
    assert kept == [{"kind": "train", "step": step, "loss": 2.125} for step in range(1, len(kept) + 1)]
    assert len(kept) >= content[:cut].count(b"\n")


def test_a_torn_last_line_is_gone_after_a_resume(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-20])
    write_steps(tmp_path, 3, 4, resume_step=2)
    assert [step for step, _ in losses_by_step(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "bad", [b'{"kind": "train", "st', b"[1, 2]", b'{"loss": 1.0}', b"", b'{"kind": "train", "step": "2"}']
)
def test_a_broken_line_before_the_last_is_an_error_with_its_place(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / METRICS_FILE
    path.write_bytes(b'{"kind": "train", "step": 1}\n' + bad + b'\n{"kind": "train", "step": 2}\n')
    with pytest.raises(ValueError, match=rf"{METRICS_FILE}:2 is not a record of metrics"):
        read_metrics(path)


@pytest.mark.parametrize("num_lines", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_a_resume_and_the_end_of_a_run_read_its_record_in_little_memory(tmp_path: Path, num_lines: int) -> None:
    path = tmp_path / METRICS_FILE
    times = {"tokens_per_s": 1.0, "data_wait_s": 0.1, "goodput": 0.9, "badput/evaluation": 0.1}
    with path.open("w") as file:
        for step in range(1, num_lines + 1):
            file.write(to_line({"kind": "train", **train_metrics(step, 1.0), **times}))
    num_bytes = path.stat().st_size
    assert peak_of(lambda: rewind(path, num_lines - 1)) < 0.2 * num_bytes
    assert peak_of(lambda: RecordedCurve.read(path)) < 0.6 * num_bytes
    assert len(RecordedCurve.read(path)) == num_lines - 1
    if num_lines == 10_000:
        assert peak_of(lambda: read_metrics(path)) > 2 * num_bytes, "the check would not notice that all lines are kept"


def peak_of(act: Callable[[], object]) -> int:
    """The most bytes that Python's objects take while `act` runs."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("end", [b"", b'"}\n'])
def test_a_line_without_end_is_an_error_with_its_place(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / METRICS_FILE
    line = b'{"kind": "train", "step": 2, "loss": "' + b"x" * 2**20 + end
    path.write_bytes(b'{"kind": "train", "step": 1}\n' + line)
    with pytest.raises(ValueError, match=rf"{METRICS_FILE}:2 is not a record of metrics"):
        read_metrics(path)


def test_a_writer_that_is_killed_leaves_every_step_it_recorded(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.trainer.test_metrics import writer\n"
        "report = writer(Path(sys.argv[1])).__enter__()\n"
        "for step in range(1, 1_000_000):\n"
        "    report.step({'step': step, 'loss': 1.0})\n"
        "    if step >= 20: print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        recorded = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    steps = [step for step, _ in losses_by_step(tmp_path)]
    assert len(steps) >= recorded
    assert steps == list(range(1, len(steps) + 1))


def test_tensorboard_shows_one_curve_after_a_resume(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 6)
    write_steps(tmp_path, 4, 8, resume_step=3, loss=2.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    curve = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert curve == [(step, 1.0 if step <= 3 else 2.0) for step in range(1, 9)]


def test_the_final_loss_is_the_mean_over_the_last_tenth_of_the_steps() -> None:
    records = [{"kind": "train", "step": step, "loss": float(step)} for step in range(1, 31)]
    records.append({"kind": "eval", "step": 30, "val_loss": 1000.0})
    assert final_loss(records) == 29
    assert final_loss(records[:3]) == 3
