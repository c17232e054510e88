"""A real training on two nodes of a Ray cluster."""

import json
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from foretrain.configs import load as configs
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.ray import submission
from foretrain.launcher.restart import read_starts
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.run.folder import newest_checkpoint, step_of
from tests.cli import called
from tests.conftest import RunOnRanks
from tests.launcher.ray import processes
from tests.launcher.ray.conftest import RayCluster, started
from tests.launcher.ray.jobs import end
from tests.processes import assert_none, wait_until
from tests.trainer.test_resume import config, train

NUM_STEPS, EVERY = 60, 20


def settings(run_dir: Path, corpus: Path) -> Config:
    layout = ParallelConfig(dp=2, pp=2)
    num_tokens = NUM_STEPS * 8 * 32
    return config(run_dir, corpus, layout, num_tokens=num_tokens, checkpoint_every=EVERY, eval_every=0)


def curve(run_dir: Path) -> list[tuple[int, Any, Any]]:
    """Steps, losses and gradient norms so far; the last line may not be there in full."""
    path = run_dir / METRICS_FILE
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records]


def launch(address: str, folder: Path, corpus: Path, *more: str) -> tuple[str, Path]:
    """Launch the run as a user does, and return the job's id and the run's folder."""
    configs.save(settings(Path("run"), corpus), folder / "my.yaml")
    on_nodes = ("--nodes", "2", "--gpus-per-node", "2", "train.device=cpu", "launch.cpus_per_rank=1")
    env = f"launch.env=[HOME,PATH,TEST_FOLDER={folder}]"  # so that a process that is left over is found
    at = f"launch.ray.address={address}"
    result = called(
        "launch", "my.yaml", "--on", "ray", *on_nodes, at, env, *more, cwd=folder, RAY_ADDRESS="http://another:1"
    )
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(
        "run: dp=2 tp=1 pp=2 1f1b zero=1, 60 steps, from the start\nRay job run-1 is submitted\n"
    )
    assert f"RAY_ADDRESS={address} ray job stop run-1\n" in result.out
    return "run-1", folder / "run"


def paused_after_a_checkpoint(folder: Path, run_dir: Path) -> tuple[list[psutil.Process], int]:
    """The four ranks, suspended so that the run does not end, and the step of the newest checkpoint."""
    wait_until(lambda: len(curve(run_dir)) > 0, "the first step")
    ranks = [processes.rank(folder, rank) for rank in range(4)]  # takes long where many processes run
    wait_until(lambda: newest_checkpoint(run_dir) is not None, "a checkpoint")
    for rank in ranks:
        rank.suspend()
    newest = newest_checkpoint(run_dir)
    assert newest is not None and EVERY <= step_of(newest) < NUM_STEPS
    return ranks, step_of(newest)


def resume(paused: list[psutil.Process]) -> None:
    for rank in paused:
        with suppress(psutil.NoSuchProcess):
            rank.resume()


@pytest.mark.long
def test_a_rank_whose_actor_is_killed_resumes_and_the_curve_is_bitwise_the_same(
    cluster: RayCluster, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    submission_id, run_dir = launch(cluster.address, tmp_path, corpus)
    paused, newest = paused_after_a_checkpoint(tmp_path, run_dir)
    actor = paused[2].parent()
    assert actor.name().startswith("ray::Agent")
    actor.send_signal(signal.SIGKILL)
    resume(paused)
    ended = end(cluster.client, submission_id)
    assert (ended.state, ended.status) == ("SUCCEEDED", 0), ended.log
    assert "rank 2 ended with status 137 (its actor is gone" in ended.log
    first, second = (start.step for start in read_starts(run_dir))
    # The ranks that are left may still complete a checkpoint that all were writing when they paused.
    assert first == 0 and second in (newest, newest + EVERY) and second < NUM_STEPS
    assert f"resumes from step {second}" in ended.log
    ledger = Ledger(facts.read(run_dir))
    assert ledger.num_starts == 2
    assert ledger.seconds["queue"] > 10 * ledger.seconds["down"], "the ranks waited for their places"

    train(ranks, settings(tmp_path / "uninterrupted", corpus))
    assert len(curve(run_dir)) == NUM_STEPS
    assert curve(run_dir) == curve(tmp_path / "uninterrupted")
    assert_none(run_dir)


@pytest.mark.long
def test_with_one_node_left_an_elastic_run_continues_with_fewer_ranks_on_the_same_curve(
    ray_installed: None, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are in it
    with started(folder / "cluster") as address, submission.connected(address) as client:
        submission_id, run_dir = launch(address, tmp_path, corpus, "parallel.dp=null", "launch.elastic=1:2")
        paused, newest = paused_after_a_checkpoint(tmp_path, run_dir)
        kept = paused[0].parent().parent()
        raylets = [process for process in kept.parent().children(recursive=True) if process.name() == "raylet"]
        lost = [raylet for raylet in raylets if raylet != kept and "--head" not in raylet.cmdline()]
        assert len(lost) == 2
        for raylet in lost:
            raylet.send_signal(signal.SIGKILL)
        resume(paused)
        ended = end(client, submission_id)
    assert (ended.state, ended.status) == ("SUCCEEDED", 0), ended.log
    first, *_, last = read_starts(run_dir)
    assert first.step == 0 and last.step in (newest, newest + EVERY)
    layouts = re.findall(r"(dp=\d) tp=1 pp=2", ended.log)
    assert (layouts[0], layouts[-1]) == ("dp=2", "dp=1"), ended.log

    train(ranks, settings(tmp_path / "uninterrupted", corpus))
    assert curve(run_dir) == [
        (step, pytest.approx(loss, rel=1e-5), pytest.approx(norm, rel=1e-4))
        for step, loss, norm in curve(tmp_path / "uninterrupted")
    ]
    assert_none(run_dir)
    shutil.rmtree(folder)
