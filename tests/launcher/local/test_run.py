"""What a user of run_local and of the `ranks` fixture may rely on."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from foretrain.launcher.local.capacity import ranks_on_cores
from foretrain.launcher.local.ranks import rank_env, started
from foretrain.launcher.local.run import RankError, run_local
from tests.conftest import RunOnRanks
from tests.launcher.local import workers

WORKERS = "tests.launcher.local.workers"


@pytest.fixture(autouse=True)
def no_rank_is_left(ranks: RunOnRanks) -> Iterator[None]:
    ranks(1, workers.env)  # the fork server stays, so it must be there before
    before = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == before


def test_each_rank_knows_its_place(ranks: RunOnRanks) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    found = ranks(2, workers.env, *names)
    assert found == [dict(zip(names, (r, r, "2", "2", "127.0.0.1"), strict=True)) for r in "01"]


def test_ranks_see_the_environment_of_now_and_never_local_size(
    ranks: RunOnRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks(1, workers.env)  # the fork server's environment is older than what follows
    monkeypatch.setenv("LOCAL_SIZE", "2")
    monkeypatch.setenv("FORETRAIN_TEST", "now")
    assert ranks(1, workers.env, "LOCAL_SIZE", "FORETRAIN_TEST") == [{"LOCAL_SIZE": None, "FORETRAIN_TEST": "now"}]


def test_cores_are_shared_between_ranks_unless_the_user_says_otherwise(
    ranks: RunOnRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert ranks(2, workers.num_threads) == [(share, str(share))] * 2
    assert rank_env({}, 0, 1_000_000, 1)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ranks(1, workers.num_threads) == [(3, "3")]


def test_ranks_form_a_process_group_from_their_environment(ranks: RunOnRanks) -> None:
    assert ranks(3, workers.all_reduce) == [6.0] * 3


def test_runs_follow_each_other_without_meeting(ranks: RunOnRanks) -> None:
    for world_size in (3, 1, 2):
        assert ranks(world_size, workers.all_reduce) == [world_size * (world_size + 1) / 2] * world_size


def test_tensors_outlive_the_rank_that_returned_them(ranks: RunOnRanks) -> None:
    for rank, returned in enumerate(ranks(2, workers.parameters)):
        assert torch.equal(returned["weight"], torch.arange(100_000.0) + rank)


def test_a_rank_is_like_any_program(ranks: RunOnRanks) -> None:
    import multiprocessing
    import sys

    assert ranks(1, workers.start_method) == [multiprocessing.get_start_method()]
    assert ranks(1, workers.where) == [(str(Path.cwd()), sys.argv, "None")]


def test_a_failing_rank_raises_in_the_caller_with_its_traceback(ranks: RunOnRanks) -> None:
    with pytest.raises(RankError, match=re.compile(r"^rank 1 failed: RuntimeError: boom.*workers\.py.*in fail", re.S)):
        ranks(2, workers.fail, [1], "RuntimeError")


def test_a_result_that_cannot_travel_is_an_error(ranks: RunOnRanks) -> None:
    with pytest.raises(RankError, match="pickle"):
        ranks(1, workers.unpicklable)


def test_a_rank_that_exits_early_did_not_return(ranks: RunOnRanks) -> None:
    with pytest.raises(RankError, match="rank 0 exited before its function returned"):
        ranks(1, workers.exit_all, 0)


def test_ranks_that_hang_show_where_and_end(
    ranks: RunOnRanks, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with started(f"{WORKERS}:hang", (str(tmp_path),), 2) as running:
        workers.wait_for_files(tmp_path, "pid-*", 2)
        running.abort()
    assert capfd.readouterr().err.count("in hang") == 2
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] still ran after 0.5 s"):
        ranks(2, workers.hang, str(tmp_path), timeout_s=0.5)


def test_rank_0_prints_here_and_the_others_into_their_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_local(f"{WORKERS}:talk", (), 2, log_dir=tmp_path / "logs") == 0
    here = capfd.readouterr()
    assert sorted(here.out.splitlines()) == ["C of 0", "stdout of 0"]
    assert "stderr of 0" in here.err
    assert "of 1" not in here.out + here.err
    log = (tmp_path / "logs" / "rank-001.log").read_text().splitlines()
    assert sorted(log[1:]) == ["C of 1", "stderr of 1", "stdout of 1"]


def test_a_log_keeps_earlier_runs_but_a_failure_shows_only_the_last(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_local(f"{WORKERS}:talk", (), 2, log_dir=tmp_path) == 0
    assert run_local(f"{WORKERS}:fail", ([1], "vanish"), 2, log_dir=tmp_path) == 9
    stderr = capfd.readouterr().err
    assert "last words of 1" in stderr
    assert "stdout of 1" not in stderr
    assert "stdout of 1" in (tmp_path / "rank-001.log").read_text()


def test_without_a_log_dir_all_ranks_print_here(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_local(f"{WORKERS}:talk", (), 2) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["C of 0", "C of 1", "stdout of 0", "stdout of 1"]


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("RuntimeError", 1, "rank 1 failed: RuntimeError: boom on 1\nTraceback"),
        ("SIGKILL", 137, "rank 1 was killed by SIGKILL (out of memory?)\nThe last lines of "),
        pytest.param("exit", 7, "rank 1 exited with status 7\n", marks=pytest.mark.long),
        pytest.param("exit with words", 1, "rank 1 exited with status 1: no such corpus\n", marks=pytest.mark.long),
        pytest.param("vanish", 9, "rank 1 exited with status 9\n", marks=pytest.mark.long),
        pytest.param("SIGSEGV", 139, "rank 1 was killed by SIGSEGV\nThe last lines of ", marks=pytest.mark.long),
        pytest.param("SIGABRT", 134, "rank 1 was killed by SIGABRT\nThe last lines of ", marks=pytest.mark.long),
    ],
)
def test_the_rank_that_failed_first_is_shown_and_gives_the_status(
    how: str, status: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_local(f"{WORKERS}:fail", ([1], how), 3, log_dir=tmp_path) == status
    stderr = capfd.readouterr().err
    stderr = stderr[stderr.index("rank ") :]
    assert stderr.startswith(said)
    if "last lines" in said:
        assert "last words of 1" in stderr
    # The peers lost their connection: their tracebacks are in their logs, and not here.
    assert "closed by peer" not in stderr
    assert "Traceback" in (tmp_path / "rank-002.log").read_text()


@pytest.mark.parametrize("how", ["ValueError", "RuntimeError"])
def test_only_an_error_of_the_user_is_shown_in_one_line(
    how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_local(f"{WORKERS}:fail", ([1], how), 2, log_dir=tmp_path) == 1
    stderr = capfd.readouterr().err
    if how == "ValueError":
        assert "error: train.lr = -1 must be greater than 0\n(rank 1; traceback:" in stderr
    assert ("Traceback" in stderr) == (how != "ValueError")
    assert "Traceback" in (tmp_path / "rank-001.log").read_text()


def test_an_error_of_all_ranks_is_shown_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_local(f"{WORKERS}:bad_config", (), 3) == 1
    stderr = capfd.readouterr().err
    assert stderr.count("train.lr") == 1
    assert "Traceback" not in stderr
    monkeypatch.setenv("FORETRAIN_TRACEBACK", "1")
    assert run_local(f"{WORKERS}:bad_config", (), 3) == 1
    assert capfd.readouterr().err.count("Traceback") == 1


def test_a_status_that_all_ranks_chose_is_returned_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_local(f"{WORKERS}:exit_all", (85,), 2) == 85
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tests.launcher.local.workers", "must read package.module:function"),
        ("tests.launcher.local.workers:nothing", "tests.launcher.local.workers has no nothing"),
        ("tests.launcher.nowhere:main", "ModuleNotFoundError"),
    ],
)
def test_a_target_that_is_not_there_is_an_error(target: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_local(target, (), 1) == 1
    assert said in capfd.readouterr().err


def test_a_world_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="world_size = 0 must be at least 1"):
        run_local(f"{WORKERS}:talk", (), 0)


def test_a_rank_that_does_not_hear_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    with started(f"{WORKERS}:hang", (str(tmp_path), True), 2) as running:
        workers.wait_for_files(tmp_path, "pid-*", 2)
        running.stop(grace_s=0.3)
    assert {outcome.exit_code for outcome in running.outcomes.values()} == {-signal.SIGKILL}


def test_more_ranks_than_the_machine_can_carry_are_refused_before_any_starts() -> None:
    too_many = ranks_on_cores() + 1
    with pytest.raises(ValueError, match=rf"{too_many} ranks are too many .* lower parallel\.dp"):
        run_local("tests.launcher.local.workers:missing", (), too_many)
