"""Jobs of ranks that only pretend, on a real cluster: placing, restarting, giving up, stopping."""

import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.elastic import Sizes
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import record_launch
from foretrain.launcher.ray import submission
from foretrain.launcher.restart import read_starts
from foretrain.trainer.checkpoint.folders import MANIFEST
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_RESUME
from foretrain.trainer.run.folder import CONFIG_FILE
from tests.launcher.ray import processes
from tests.launcher.ray.conftest import RayCluster, started
from tests.launcher.ray.jobs import end, make_job, submit, written
from tests.processes import assert_none, wait_until

RAY = LAUNCHERS.get("ray")


@pytest.mark.long
def test_ranks_are_started_again_until_one_says_never_again(cluster: RayCluster, tmp_path: Path) -> None:
    job = make_job(tmp_path, ranks_per_node=2, fake="85,killed,93,0", max_starts=5)
    ended = end(cluster.client, submit(job, cluster.address))
    assert ended.status == EXIT_CONFIG, ended.log
    assert len(read_starts(job.folder)) == 3
    assert "stopped when asked to: resumes from the start" in ended.log
    assert "a rank was killed (status 137): resumes from the start" in ended.log
    assert "refused: what the ranks' logs say has to change" in ended.log
    assert "rank 0 of 4: 93" in ended.log, "the log of rank 0 is part of the job's"
    for rank in range(4):
        lines = (job.logs / f"rank-{rank:03}.log").read_text().splitlines()
        assert [line for line in lines if line.startswith("rank ")] == [
            f"rank {rank} of 4: {word}" for word in ("85", "killed", "93")
        ]
        assert sum(line.startswith(f"--- rank {rank} starts") for line in lines) == 3
    assert_none(tmp_path)


@pytest.mark.long
def test_the_driver_finds_checkpoints_with_the_environment_of_the_ranks(cluster: RayCluster, tmp_path: Path) -> None:
    """The folder depends on HOME, as the right to read one on a server depends on other variables."""
    job = make_job(tmp_path, fake="93")
    job = replace(job, env=(*job.env, ("HOME", str(tmp_path))))
    (job.folder / CONFIG_FILE).write_text("train: {checkpoint_folder: 'file://~/saved'}\n")
    (tmp_path / "saved/step-00000007").mkdir(parents=True)
    (tmp_path / "saved/step-00000007" / MANIFEST).touch()
    ended = end(cluster.client, submit(job, cluster.address))
    assert "start 1, from step 7; logs in" in ended.log
    assert_none(tmp_path)


@pytest.mark.long
def test_what_can_never_be_placed_says_what_the_nodes_have(cluster: RayCluster, tmp_path: Path) -> None:
    job = make_job(tmp_path, num_nodes=4, ranks_per_node=2, fake="0")
    ended = end(cluster.client, submit(job, cluster.address, wait_s=2))
    assert ended.status == EXIT_CONFIG, ended.log
    assert "asked for 4 nodes with 2 CPUs each; in 2 s the cluster could not give that. Its nodes:" in ended.log
    assert ended.log.count("2 of 2 CPUs free") == 2 * 3, "result while it waits, and at the end"
    assert "3 of 4 nodes are large enough: add nodes, or ask for less" in ended.log
    assert read_starts(job.folder) == []


def test_a_job_that_is_stopped_saves_and_leaves_nothing(cluster: RayCluster, tmp_path: Path) -> None:
    job = make_job(tmp_path, num_nodes=3, fake="save")
    submission_id = submit(job, cluster.address)
    wait_until(lambda: len([*job.folder.glob("ready-0-*")]) == 3, "ranks")
    assert submission.is_active(cluster.address, submission_id)
    (tmp_path / "other").mkdir()
    other = make_job(tmp_path / "other", num_nodes=3, ranks_per_node=2, fake="0")
    refused = end(cluster.client, submit(other, cluster.address, wait_s=1))
    assert refused.status == 1, "nodes that are busy may be free later"
    assert "3 nodes are large enough, but not free" in refused.log

    record_launch(job.folder, "ray", submission_id, cluster.address)
    assert [(stopped.id, stopped.state) for stopped in RAY.stop(job.folder)] == [(submission_id, "running")]
    ended = end(cluster.client, submission_id)
    assert RAY.active(job.folder, LaunchConfig()) == []
    log = next(path for path in RAY.logs(job.folder) if path.name.startswith("ray-"))
    assert log.name == f"ray-{submission_id}.log" and log.read_text() == ended.log
    assert ended.state == "STOPPED"
    assert f"the driver exits with status {EXIT_RESUME}" in ended.log
    assert len([*job.folder.glob("saved-*")]) == 3
    assert len(read_starts(job.folder)) == 1
    assert not submission.is_active(cluster.address, submission_id)
    assert_none(tmp_path)
    with pytest.raises(ValueError, match=r"has a job .* already"):
        submission.submit(job, written(job, submission_id), cluster.address)


@pytest.mark.long
def test_an_elastic_job_tries_the_nodes_that_are_free_however_short_it_may_wait(
    cluster: RayCluster, tmp_path: Path
) -> None:
    busy = make_job(tmp_path, num_nodes=1, ranks_per_node=2, fake="save")
    occupies = submit(busy, cluster.address)
    wait_until(lambda: len([*busy.folder.glob("ready-0-*")]) == 2, "ranks of the job that occupies a node")
    (tmp_path / "elastic").mkdir()
    sizes = Sizes((1, 3), ranks_per_replica=2)
    job = make_job(tmp_path / "elastic", num_nodes=3, ranks_per_node=2, fake="0", sizes=sizes)
    ended = end(cluster.client, submit(job, cluster.address, wait_s=5))
    cluster.client.stop_job(occupies)
    end(cluster.client, occupies)
    assert ended.status == 0, ended.log
    assert "asks for 3 nodes" in ended.log
    lines = (job.logs / "rank-000.log").read_text().splitlines()
    assert [line for line in lines if line.startswith("rank 0 of")] == ["rank 0 of 2: 0"]
    assert_none(tmp_path)


# It kills a node of the cluster: the tests above need all of them.
@pytest.mark.long
def test_a_job_resumes_without_a_node_that_died_and_gives_up_if_that_does_not_help(
    cluster: RayCluster, tmp_path: Path
) -> None:
    job = make_job(tmp_path, fake="parent,killed,0", max_starts=2)
    submission_id = submit(job, cluster.address)
    wait_until(lambda: len([*job.folder.glob("ready-0-*")]) == 2, "ranks")
    raylet = processes.rank(tmp_path, 1).parent().parent()
    assert "raylet" in raylet.name()
    raylet.send_signal(signal.SIGKILL)
    ended = end(cluster.client, submission_id)
    assert ended.status == 1, ended.log
    assert "rank 1 ended with status 137 (its actor is gone" in ended.log
    assert len(read_starts(job.folder)) == 2
    assert "2 starts in a row did not reach a first checkpoint" in ended.log
    assert_none(tmp_path)


def test_a_cluster_does_not_know_jobs_of_others(cluster: RayCluster) -> None:
    assert submission.status(cluster.address, "no-such-job") is None


@pytest.mark.long
def test_an_elastic_job_continues_on_the_nodes_that_are_left(ray_installed: None, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are in it
    with started(folder / "cluster") as address, submission.connected(address) as client:
        # With two of three nodes left, the largest size that fits is 1.
        job = make_job(tmp_path, num_nodes=3, fake="parent,0", sizes=Sizes((1, 3), ranks_per_replica=1))
        submission_id = submit(job, address)
        wait_until(lambda: len([*job.folder.glob("ready-0-*")]) == 3, "ranks")
        processes.rank(tmp_path, 2).parent().parent().send_signal(signal.SIGKILL)
        ended = end(client, submission_id)
    assert ended.status == 0, ended.log
    lines = (job.logs / "rank-000.log").read_text().splitlines()
    assert [line for line in lines if line.startswith("rank 0 of")] == ["rank 0 of 3: parent", "rank 0 of 1: 0"]
    assert_none(tmp_path)
    shutil.rmtree(folder)
