"""A run whose terminal is closed, or whose output nobody reads any more, saves a checkpoint and can be resumed."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS
from tests.cli import CONFIG, DEADLINE_S, NUM_STEPS, called, end, environment, start, wait_for_a_step

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path


def read_all(descriptor: int) -> None:
    while True:
        try:
            if not os.read(descriptor, 65536):
                return
        except OSError:
            return


def saved_step(run_dir: Path) -> int:
    """The step of the only checkpoint, which is the last in the metrics."""
    (name,) = (path.name for path in (run_dir / CHECKPOINTS).iterdir())
    step = int(name.removeprefix("step-"))
    assert read_metrics(run_dir / METRICS_FILE)[-1]["step"] == step
    return step


def test_a_terminal_that_is_closed_costs_no_step(folder: Path) -> None:
    leader, follower = pty.openpty()
    reader = threading.Thread(target=read_all, args=(leader,), daemon=True)
    reader.start()
    run_dir = folder / "runs/complete"
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "foretrain", "train", "tiny.yaml"],
        cwd=folder,
        env=environment(),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    try:
        wait_for_a_step(process, run_dir / METRICS_FILE)
        os.close(leader)  # as its window does: the kernel sends SIGHUP, and every later write fails
        assert process.wait(DEADLINE_S) == EXIT_RESUME
    finally:
        process.kill()
    assert 1 <= saved_step(run_dir) < NUM_STEPS


def test_a_pipe_whose_reader_ends_costs_no_step_and_stop_after_then_trains_no_more(folder: Path) -> None:
    run_dir = folder / "runs/complete"
    process = start("train", "tiny.yaml", "train.log_every=1", cwd=folder)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE_S) == EXIT_RESUME
        assert process.stderr is not None
        assert process.stderr.read() == (
            "output can no longer be written (Broken pipe): the run writes a checkpoint and stops\n"
        )
    finally:
        process.kill()
    step = saved_step(run_dir)
    assert 1 <= step < NUM_STEPS
    again = called("train", "tiny.yaml", f"train.stop_after={step}", cwd=folder)
    assert (again.status, again.err) == (0, "")
    assert f"{step} of {NUM_STEPS} steps are done, and train.stop_after = {step} asks for no more" in again.out
    assert saved_step(run_dir) == step


def test_after_nohup_a_run_continues_without_its_terminal(folder: Path) -> None:
    run_dir = folder / "runs/complete"
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "foretrain", "train", "tiny.yaml"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_a_step(process, run_dir / METRICS_FILE)
        os.killpg(process.pid, signal.SIGHUP)
        assert end(process).status == 0
    finally:
        process.kill()
    assert saved_step(run_dir) == NUM_STEPS


def test_ctrl_c_while_text_is_generated_ends_a_complete_run_at_once(folder: Path) -> None:
    run_dir = folder / "runs/complete"
    process = start("train", "tiny.yaml", "sample.num_tokens=10000000", cwd=folder)  # they would take hours
    try:
        while not (run_dir / "loss.png").exists():  # drawn after training, and before text is generated
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        ended = end(process)
    finally:
        process.kill()
    assert ended.status == 0
    assert saved_step(run_dir) == NUM_STEPS
