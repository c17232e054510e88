"""A run of this machine is started again when it was killed, and only then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foretrain.launcher.local.supervise import MODULE
from foretrain.launcher.restart import read_starts
from tests.processes import wait_until

MAX_STARTS = 3


def supervised(run_dir: Path, script: str) -> subprocess.Popen[str]:
    """A process that supervises a bash script. `$RUN` is its folder."""
    run_dir.mkdir(exist_ok=True)
    command = [sys.executable, "-m", MODULE, "--max-starts", str(MAX_STARTS), str(run_dir), "bash", "-c", script]
    env = {**os.environ, "RUN": str(run_dir)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_command_that_is_killed_is_started_again_until_it_ends(tmp_path: Path) -> None:
    script = 'echo start; mkdir "$RUN/once" 2>/dev/null && kill -9 $$; exit 0'
    process = supervised(tmp_path / "run", script)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "start\nstart\n")
    assert err == "a rank was killed (status 137): resumes from the start\n"
    assert [start.step for start in read_starts(tmp_path / "run")] == [0, 0]


@pytest.mark.parametrize("status", [86, 139])
def test_ranks_that_hung_or_were_killed_are_a_reason_too(status: int, tmp_path: Path) -> None:
    process = supervised(tmp_path / "run", f'echo start; mkdir "$RUN/once" 2>/dev/null && exit {status}; exit 0')
    assert process.communicate(timeout=60)[0] == "start\nstart\n"
    assert process.returncode == 0


def test_a_run_that_makes_progress_is_started_again_as_often_as_it_is_killed(tmp_path: Path) -> None:
    checkpoints = '"$RUN/checkpoints"'
    script = f"mkdir -p {checkpoints}; n=$(ls {checkpoints} | wc -l); [ $n = 6 ] && exit 0; "
    process = supervised(tmp_path / "run", f"{script} mkdir {checkpoints}/step-$((n + 1)); kill -9 $$")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [start.step for start in read_starts(tmp_path / "run")] == [0, 1, 2, 3, 4, 5, 6]


def test_starts_without_progress_are_given_up(tmp_path: Path) -> None:
    process = supervised(tmp_path / "run", "echo start; kill -9 $$")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (137, "start\n" * MAX_STARTS)
    assert "3 starts in a row did not reach a first checkpoint, so the job gives up (launch.max_starts = 3)" in err


@pytest.mark.parametrize("status", [0, 1, 2, 85, 93])
def test_a_command_that_ends_by_itself_is_not_started_again(status: int, tmp_path: Path) -> None:
    process = supervised(tmp_path / "run", f"echo start; exit {status}")
    assert process.communicate(timeout=60) == ("start\n", "")
    assert process.returncode == status


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_is_not_started_again(signum: int, tmp_path: Path) -> None:
    process = supervised(tmp_path / "run", 'touch "$RUN/started"; exec sleep 100')
    wait_until(lambda: (tmp_path / "run/started").exists(), "the command")
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert len(read_starts(tmp_path / "run")) == 1


def test_a_command_whose_supervisor_is_killed_is_asked_to_save(tmp_path: Path) -> None:
    script = 'trap \'touch "$RUN/asked"; exit\' TERM; touch "$RUN/started"; while :; do sleep 0.05; done'
    process = supervised(tmp_path / "run", script)
    wait_until(lambda: (tmp_path / "run/started").exists(), "the command")
    process.kill()
    wait_until(lambda: (tmp_path / "run/asked").exists(), "the signal")
    process.communicate(timeout=60)
