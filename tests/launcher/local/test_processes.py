"""What becomes of the processes of a program that launches ranks: however it is started, and however it ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launcher.local import workers
from tests.processes import DEADLINE_S, assert_gone

ROOT = Path(__file__).parents[3]
PROGRAM = "tests.launcher.local.program"

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start a program in its own process group, as a shell does, in an empty working directory."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, **env: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def descendants_when_ready(program: "subprocess.Popen[str]", folder: Path) -> list[psutil.Process]:
    workers.wait_for_files(folder, "pid-*", 2)
    found = psutil.Process(program.pid).children(recursive=True)
    # Two ranks, the fork server, and multiprocessing's resource tracker.
    assert len(found) == 4
    return found


def rank_processes(folder: Path) -> list[psutil.Process]:
    return [psutil.Process(int(path.read_text())) for path in folder.glob("pid-*")]


@pytest.mark.parametrize("how", ["hang_deaf", pytest.param("hang_in_c", marks=pytest.mark.long)])
def test_nothing_outlives_a_launcher_that_is_killed(how: str, launch: Launch, tmp_path: Path) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), how)
    processes = descendants_when_ready(program, tmp_path)
    program.kill()
    assert_gone(processes)


@pytest.mark.long
def test_nothing_outlives_a_fork_server_that_is_killed(launch: Launch, tmp_path: Path) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), "hang_deaf")
    processes = descendants_when_ready(program, tmp_path)
    ranks = rank_processes(tmp_path)
    ranks[0].parent().kill()
    assert_gone(ranks)
    assert "was the fork server killed?" in program.communicate(timeout=DEADLINE_S)[1]
    assert program.returncode == 255
    assert_gone(processes)


def test_ctrl_c_in_a_terminal_ends_the_run_without_a_traceback(launch: Launch, tmp_path: Path) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), "hang")
    processes = descendants_when_ready(program, tmp_path)
    os.killpg(program.pid, signal.SIGINT)
    stderr = program.communicate(timeout=DEADLINE_S)[1]
    assert program.returncode == 130
    assert stderr == "\nSIGINT: waiting up to 60 s for the ranks to end; Ctrl-C again kills them\n"
    assert_gone(processes)


@pytest.mark.long
def test_a_scheduler_that_signals_every_process_lets_the_ranks_save(launch: Launch, tmp_path: Path) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), "save_on_sigterm")
    processes = descendants_when_ready(program, tmp_path)
    for rank in rank_processes(tmp_path):
        # As Ctrl-C does: what it means is the launcher's to say.
        rank.send_signal(signal.SIGINT)
    time.sleep(0.2)
    os.killpg(program.pid, signal.SIGTERM)
    program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0
    assert len(list(tmp_path.glob("saved-*"))) == 2
    assert_gone(processes)


@pytest.mark.long
def test_ctrl_c_before_there_are_ranks_ends_at_once(launch: Launch, tmp_path: Path) -> None:
    preloading = tmp_path / "preloading"
    program = launch(
        "-m", PROGRAM, str(tmp_path), "hang", "tests.launcher.local.preloaded", FORETRAIN_TEST=str(preloading)
    )
    workers.wait_for_files(tmp_path, "preloading", 1)
    processes = psutil.Process(program.pid).children(recursive=True)
    os.killpg(program.pid, signal.SIGINT)
    assert program.communicate(timeout=DEADLINE_S)[1] == ""
    assert program.returncode == 130
    assert_gone(processes)


@pytest.mark.long
def test_a_fork_server_that_dies_at_its_start_is_reported_as_one_that_was_killed(
    launch: Launch, tmp_path: Path
) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), "hang", "tests.launcher.local.preloaded", FORETRAIN_TEST="die")
    assert "error: the fork server ended before it started a rank" in program.communicate(timeout=DEADLINE_S)[1]
    assert program.returncode == 255


@pytest.mark.long
def test_the_socket_of_a_launcher_that_is_killed_is_deleted_by_the_next_one(launch: Launch, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:  # as the paths of sockets must be
        first = launch("-m", PROGRAM, str(tmp_path), "hang_deaf", TMPDIR=short)
        descendants_when_ready(first, tmp_path)
        first.kill()
        first.communicate(timeout=DEADLINE_S)
        assert [path.name[:7] for path in Path(short).iterdir()] == ["ftsock-"]
        second = launch("-m", PROGRAM, str(tmp_path), "where_to_file", TMPDIR=short)
        second.communicate(timeout=DEADLINE_S)
        assert second.returncode == 0
        assert [*Path(short).iterdir()] == []


@pytest.mark.long
def test_a_temporary_folder_whose_path_just_fits_a_socket_works(launch: Launch, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:
        long = Path(short) / ("x" * (74 - len(short)))
        long.mkdir()
        program = launch("-m", PROGRAM, str(tmp_path), "where_to_file", TMPDIR=str(long))
        assert program.communicate(timeout=DEADLINE_S)[1] == ""
        assert program.returncode == 0
        assert [*long.iterdir()] == []


@pytest.mark.long
def test_the_ranks_report_a_preload_that_fails(launch: Launch, tmp_path: Path) -> None:
    program = launch("-m", PROGRAM, str(tmp_path), "where_to_file", "no_such_module")
    assert "ModuleNotFoundError: No module named 'no_such_module'" in program.communicate(timeout=DEADLINE_S)[1]
    assert program.returncode == 1


LONG = [pytest.param(how, marks=pytest.mark.long) for how in ("module", "file")]


@pytest.mark.parametrize("how", [*LONG, "console script"])
def test_ranks_do_not_run_the_program_again(how: str, launch: Launch, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"import sys\nfrom {PROGRAM} import main\nsys.exit(main())\n")  # and nothing guards it
    ways = {
        "module": ("-m", PROGRAM),
        "file": (str(ROOT / "tests/launcher/local/program.py"),),
        "console script": (str(script),),
    }
    program = launch(*ways[how], str(tmp_path), "where_to_file")
    assert program.communicate(timeout=DEADLINE_S)[1] == ""
    assert program.returncode == 0
    assert (tmp_path / "imports").read_text() == ("__main__\n" if how != "console script" else f"{PROGRAM}\n")
    assert (tmp_path / "where-1").read_text() == str(tmp_path)
