"""Clusters of this machine alone: a run on one, in the foreground, and what is left of it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from foretrain.launcher.launches import launches
from foretrain.launcher.ray import submission
from foretrain.launcher.ray.local_cluster import local_cluster
from foretrain.trainer.run.exit_status import EXIT_RESUME
from tests.launcher.ray.jobs import ROOT, make_job, written
from tests.processes import DEADLINE_S, assert_none, of_folder, wait_until
from tests.sockets import listening, on_the_network


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the clusters of a test have their folders; none of their processes and files is left."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it
    yield folder
    assert_none(folder)
    assert [*folder.iterdir()] == []
    folder.rmdir()


def start(file: Path, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.launcher.ray.program", "foreground", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "RAY_ADDRESS": "http://another:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_private_cluster_is_private_and_ends_with_a_checkpoint_if_its_terminal_asks_for_that(
    signum: signal.Signals, ray_installed: None, folder: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, num_nodes=1, ranks_per_node=2, gpus_per_node=2, fake="save")
    written(job, "run-1")
    program = start(job.folder / submission.SCRIPT, folder)
    wait_until(lambda: len([*job.folder.glob("ready-0-*")]) == 2 or program.poll() is not None, "ranks")
    processes = of_folder(folder)
    assert len(listening(processes)) > 5
    assert on_the_network(processes) == {}
    assert refused_without_token(job.folder)
    os.killpg(program.pid, signum)  # as a terminal does
    out, err = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == EXIT_RESUME, out + err
    assert err == f"\n{signum.name}: stops the job; a second signal returns at once\n"
    assert out.startswith("starting a Ray cluster on this machine\n")
    assert out.count("rank 0 of 2: save") == 1
    assert len([*job.folder.glob("saved-*")]) == 2
    assert '"CUDA_VISIBLE_DEVICES": "0,1"' in (job.logs / "rank-000.log").read_text()
    assert '"CUDA_VISIBLE_DEVICES": "0,1"' in (job.logs / "rank-001.log").read_text()
    assert_none(tmp_path)


def refused_without_token(run_dir: Path) -> bool:
    """Whether another user, who does not have the token, gets no answer about the jobs of a cluster."""
    address = launches(run_dir)[-1].address
    with pytest.raises(HTTPError) as refused:
        build_opener(ProxyHandler({})).open(f"{address}/api/jobs/", timeout=60)
    return refused.value.code in (401, 403)


@pytest.mark.long
def test_nothing_outlives_a_program_that_is_killed(ray_installed: None, folder: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, num_nodes=1, fake="parent")
    written(job, "run-1")
    program = start(job.folder / submission.SCRIPT, folder)
    wait_until(lambda: (job.folder / "ready-0-0").exists() or program.poll() is not None, "rank")
    program.kill()
    program.communicate(timeout=DEADLINE_S)
    assert_none(folder)
    assert_none(tmp_path)


@pytest.mark.long
def test_a_cluster_that_does_not_start_says_why_and_leaves_nothing(
    ray_installed: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 2.*num-cpus"), local_cluster(num_cpus="no"):  # type: ignore[arg-type]
        pass
