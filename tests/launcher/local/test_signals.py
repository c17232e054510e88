"""What happens to a run when its launcher is signalled."""

import json
import os
import signal
from pathlib import Path

import pytest

from foretrain.launcher.local.run import run_local

TARGET = "tests.launcher.local.workers:signalled"
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def run(folder: Path, signums: list[int], how: str, world_size: int = 2, grace_s: float = 120.0) -> int:
    before = [signal.getsignal(signum) for signum in HANDLED]
    status = run_local(TARGET, (str(folder), os.getpid(), signums, how), world_size, stop_grace_s=grace_s)
    assert [signal.getsignal(signum) for signum in HANDLED] == before
    return status


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (signal.SIGINT, signal.SIGTERM),
        pytest.param(signal.SIGTERM, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR2, signal.SIGUSR2, marks=pytest.mark.long),
    ],
)
def test_ranks_that_save_and_return_give_success(
    sent: int, received: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, [sent], "save") == 0
    for rank in range(2):
        assert json.loads((tmp_path / f"saved-{rank}").read_text()) == [received]
    assert f"{signal.Signals(sent).name}: waiting up to 120 s for the ranks to end" in capfd.readouterr().err


def test_ranks_that_save_and_choose_a_status_give_it(tmp_path: Path) -> None:
    assert run(tmp_path, [signal.SIGUSR2], "exit") == 85


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR2, 140, marks=pytest.mark.long),
    ],
)
def test_ranks_that_die_of_the_signal_give_its_status_without_a_traceback(
    sent: int, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, [sent], "default") == status
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    assert "rank" not in stderr.replace("for the ranks to end", "")


def test_a_rank_that_fails_while_it_saves_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [signal.SIGTERM], "fail") == 1
    assert "failed: RuntimeError: disk full on" in capfd.readouterr().err


@pytest.mark.long
def test_a_rank_that_saves_slowly_is_waited_for_though_another_has_died(tmp_path: Path) -> None:
    assert run(tmp_path, [signal.SIGTERM], "save slowly") == 143
    assert (tmp_path / "saved-1").exists()


@pytest.mark.long
def test_ranks_that_do_not_answer_are_killed_after_the_grace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [signal.SIGTERM], "deaf", grace_s=0.5) == 143
    assert "ranks [0, 1] did not end in time and were killed" in capfd.readouterr().err


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [signal.SIGINT, signal.SIGINT], "deaf", grace_s=600) == 130
    assert "did not end in time" not in capfd.readouterr().err


@pytest.mark.long
def test_a_second_sigterm_is_forwarded_too(tmp_path: Path) -> None:
    assert run(tmp_path, [signal.SIGUSR2, signal.SIGTERM], "deaf", grace_s=1.5) == 143
