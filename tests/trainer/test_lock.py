"""A run's folder belongs to one process at a time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.trainer.run.exit_status import EXIT_RESUME
from foretrain.trainer.run.lock import LOCK_FILE, locked
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.steps import before_each_step
from tests.trainer.test_saving import config, saved_steps

ROOT = Path(__file__).parents[2]
HOLD = """
import sys; from pathlib import Path
from foretrain.trainer.run.lock import locked
with locked(Path(sys.argv[1])):
    {}
"""


def program(body: str, run_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD.format(body), str(run_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of tmp_path/run."""
    with program("print('held', flush=True); sys.stdin.read()", tmp_path / "run") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_name_of_the_holder(
    holder: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    with (
        pytest.raises(ValueError, match=rf"run is in use by process {holder.pid} on .*another run_dir"),
        locked(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_ends_with_its_process(signum: int, holder: "subprocess.Popen[str]", tmp_path: Path) -> None:
    holder.send_signal(signum)
    holder.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_reading_the_lock_in_the_process_that_holds_it_does_not_end_it(tmp_path: Path) -> None:
    body = "open(sys.argv[1] + '/.lock').close(); print('read', flush=True); sys.stdin.read()"
    with program(body, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "read\n"
        with pytest.raises(ValueError, match=rf"in use by process {process.pid} on .* Do not delete"), locked(tmp_path):
            pass
        process.kill()


def test_an_older_version_with_a_posix_lock_excludes_this_one_and_the_other_way_round(tmp_path: Path) -> None:
    take = "import fcntl; file = open(sys.argv[1] + '/.lock', 'r+'); fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    older = HOLD.partition("with locked")[0] + take + "; print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", older, str(tmp_path)]
    (tmp_path / LOCK_FILE).touch()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use by another process"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert "BlockingIOError" in ended.stderr


def test_children_of_the_holder_do_not_keep_it(tmp_path: Path) -> None:
    body = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid, flush=True)"
    with program(body, tmp_path) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_it_can_be_taken_again_after_it_was_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass
    with program("print('held')", tmp_path) as process:
        assert process.communicate()[0] == "held\n"


def test_a_file_system_without_locks_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def without_its_lock(run: Any, at_step: int, other: str) -> None:
    """Train. Before a step, the lock file is deleted, and made by another run if `other` names one."""
    lock = run.run_dir / LOCK_FILE

    def act(engine: Engine, number: int) -> None:
        if engine.groups.rank == 0 and number == at_step:
            kept = lock.rename(lock.with_name("kept"))  # so that its number is not given to the next file
            assert kept.exists()
            if other:
                lock.write_text(other)

    before_each_step(act)
    train_rank(run)


def test_a_run_whose_lock_file_is_deleted_writes_a_checkpoint_and_stops(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, corpus, checkpoint_every=1)
    with locked(tmp_path), pytest.raises(RankError, match=f"rank 0 exited with status {EXIT_RESUME}"):
        ranks(1, without_its_lock, prepare_run(settings), 1, "")
    assert saved_steps(tmp_path) == [1, 2]
    assert "was deleted, so that another run could start in the folder: this one writes a" in capfd.readouterr().out
    with locked(tmp_path):
        ranks(1, train_rank, prepare_run(settings))
    assert saved_steps(tmp_path) == [1, 2, 3]


def test_a_run_whose_folder_another_one_has_taken_writes_no_further_checkpoint(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, dp=2, checkpoint_every=1, checkpoint_in_background=False))
    with (
        locked(tmp_path),
        pytest.raises(RankError, match=r"LostLockError: .*another run has taken the folder: process 7 on node3\."),
    ):
        ranks(2, without_its_lock, run, 2, "process 7 on node3\n")
    assert saved_steps(tmp_path) == [1]
