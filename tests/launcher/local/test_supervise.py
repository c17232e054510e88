"""A run of this machine is started again when it was killed, and only then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foretrain.launcher.local.capacity import ranks_on_cores
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


MAKE_CHECKPOINT = 'next="$RUN/checkpoints"/step-0000000$((n + 1)); mkdir "$next"; touch "$next/run.json";'
"""A shell command that adds an empty checkpoint to `n` others."""


def test_a_run_that_makes_progress_is_started_again_as_often_as_it_is_killed(tmp_path: Path) -> None:
    checkpoints = '"$RUN/checkpoints"'
    script = f"mkdir -p {checkpoints}; n=$(ls {checkpoints} | wc -l); [ $n = 6 ] && exit 0; "
    process = supervised(
        tmp_path / "run",
        f"{script} {MAKE_CHECKPOINT} kill -9 $$",
    )
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


def elastic(run_dir: Path, script: str, sizes: str, device: str = "cpu") -> subprocess.Popen[str]:
    """A process that supervises a bash script with several data-parallel sizes: the option that names one is $0."""
    run_dir.mkdir()
    asked = ["--max-starts", str(MAX_STARTS), "--sizes", sizes, "--device", device, str(run_dir)]
    command = [sys.executable, "-m", MODULE, *asked, "bash", "-c", script]
    env = {**os.environ, "RUN": str(run_dir), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_size_that_does_not_get_further_gives_way_to_the_next_smaller_one(tmp_path: Path) -> None:
    process = elastic(tmp_path / "run", "echo $0; [ $0 = parallel.dp=1 ] || kill -9 $$", "1,2,4x1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.split() == ["parallel.dp=4"] * MAX_STARTS + ["parallel.dp=2"] * MAX_STARTS + ["parallel.dp=1"]
    assert "continues with a size below dp = 4" in err


def test_a_run_that_gets_further_keeps_its_size(tmp_path: Path) -> None:
    checkpoints = '"$RUN/checkpoints"'
    script = f"echo $0; mkdir -p {checkpoints}; n=$(ls {checkpoints} | wc -l); [ $n = 6 ] && exit 0; "
    process = elastic(
        tmp_path / "run",
        f"{script} {MAKE_CHECKPOINT} kill -9 $$",
        "1,2x1",
    )
    assert process.communicate(timeout=60)[0].split() == ["parallel.dp=2"] * 7
    assert process.returncode == 0


def test_when_the_smallest_size_does_not_get_further_the_run_ends(tmp_path: Path) -> None:
    process = elastic(tmp_path / "run", "echo $0; kill -9 $$", "1,2x1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert len(out.split()) == 2 * MAX_STARTS
    assert "gives up" in err.splitlines()[-1]


def test_a_start_has_no_more_ranks_than_the_cores_carry(tmp_path: Path) -> None:
    most = ranks_on_cores()
    process = elastic(tmp_path / "run", "echo $0", f"1,{most},{most + 1}x1")
    assert process.communicate(timeout=60)[0] == f"parallel.dp={most}\n"


def test_a_machine_that_is_too_small_for_every_size_is_reported(tmp_path: Path) -> None:
    most = ranks_on_cores()
    process = elastic(tmp_path / "run", "echo $0", f"2x{most}")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert f"launch.elastic: dp = 2 needs {2 * most} ranks, and this machine can run {most}" in err


@pytest.mark.long
@pytest.mark.parametrize(
    ("device", "status", "words"), [("cuda", 1, "this machine can run 0 (one on each visible GPU)"), ("auto", 0, "")]
)
def test_a_run_on_gpus_needs_one_for_each_rank_and_other_runs_use_the_cores(
    device: str, status: int, words: str, tmp_path: Path
) -> None:
    process = elastic(tmp_path / "run", "echo $0", "1,2x1", device)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status
    assert words in err
    assert out == ("" if status else "parallel.dp=2\n")
