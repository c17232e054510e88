"""A run's folder belongs to one process at a time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretrain.trainer.run.lock import LOCK_FILE, locked

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
