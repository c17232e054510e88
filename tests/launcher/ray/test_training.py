"""A real training on two nodes of a Ray cluster."""

import json
import signal
from pathlib import Path
from typing import Any

from configs import load as configs
from configs.schema import Config, ParallelConfig
from launcher.restart import read_starts
from tests.conftest import RunOnRanks
from tests.launcher.ray import processes
from tests.launcher.ray.conftest import RayCluster
from tests.launcher.ray.jobs import end, make_job, submit, wait_for
from tests.trainer.test_resume import config, train
from trainer.metrics import METRICS_FILE
from trainer.run_folder import CONFIG_FILE

NUM_STEPS, EVERY, KILL_AFTER = 60, 20, 23


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


def test_a_rank_whose_actor_is_killed_goes_on_and_the_curve_is_bitwise_the_same(
    cluster: RayCluster, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    job = make_job(tmp_path, num_nodes=2, ranks_per_node=2)
    configs.save(settings(job.folder, corpus), job.folder / CONFIG_FILE)
    submission_id = submit(job, cluster.address)
    wait_for(lambda: len(curve(job.folder)) > KILL_AFTER, f"step {KILL_AFTER}")
    actor = processes.rank(tmp_path, 2).parent()
    assert actor.name().startswith("ray::Agent")
    actor.send_signal(signal.SIGKILL)
    ended = end(cluster.client, submission_id)
    assert (ended.state, ended.status) == ("SUCCEEDED", 0), ended.log
    assert "rank 2 ended with status 137 (its actor is gone" in ended.log
    assert [start.step for start in read_starts(job.folder)] == [0, EVERY]
    assert f"goes on from step {EVERY}" in ended.log

    train(ranks, settings(tmp_path / "whole", corpus))
    assert len(curve(job.folder)) == NUM_STEPS
    assert curve(job.folder) == curve(tmp_path / "whole")
    processes.assert_none(job.folder)
