"""The message for a cluster that cannot give what a job asks for."""

from dataclasses import replace
from pathlib import Path

from foretrain.launcher.ray import resources
from foretrain.launcher.ray.resources import Node
from foretrain.trainer.run.exit_status import EXIT_CONFIG
from tests.launcher.ray.jobs import make_job

HEAD = Node("10.0.0.1", {"memory": 1.0}, {})
BUSY = Node("10.0.0.2", {"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0})
SMALL = Node("10.0.0.3", {"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0})


def test_nodes_that_are_too_small_are_distinguished_from_busy_ones(tmp_path: Path) -> None:
    job = make_job(tmp_path, num_nodes=2, ranks_per_node=8, cpus_per_rank=8, gpus_per_node=8)
    assert resources.bundle(job) == {"CPU": 64.0, "GPU": 8.0}
    words, status = resources.shortage(job, [HEAD, SMALL, BUSY], 600.0)
    assert status == EXIT_CONFIG
    assert words == (
        "asked for 2 nodes with 64 CPUs and 8 GPUs each; in 600 s the cluster could not give that. Its nodes:\n"
        "  10.0.0.2: 4 of 64 CPUs, 0 of 8 GPUs free\n"
        "  10.0.0.3: 32 of 32 CPUs, 4 of 4 GPUs free\n"
        "  10.0.0.1: 0 of 0 CPUs, 0 of 0 GPUs free\n"
        "1 of 3 nodes is large enough: add nodes, or ask for less (cluster.num_nodes, cluster.gpus_per_node, "
        "launch.cpus_per_rank); the ranks of the layout change with the first two"
    )
    one = replace(job, num_nodes=1)
    words, status = resources.shortage(one, [HEAD, BUSY], 600.0)
    assert status == 1, "it may have room later"
    assert words.endswith("1 node is large enough, but not free: wait, or raise launch.ray.wait_s")


def test_a_large_cluster_is_described_in_short(tmp_path: Path) -> None:
    lines = resources.overview(make_job(tmp_path), [BUSY] * 1000)
    assert len(lines) == 33
    assert lines[-1] == "  and 968 more"


def test_a_cluster_without_nodes_says_so(tmp_path: Path) -> None:
    assert resources.overview(make_job(tmp_path), []) == ["  no node is alive"]


def test_an_elastic_job_counts_the_nodes_that_are_large_enough_and_those_that_are_free(tmp_path: Path) -> None:
    job = make_job(tmp_path, ranks_per_node=4, cpus_per_rank=8, gpus_per_node=4)
    assert resources.num_able(job, [HEAD, BUSY, SMALL]) == 2
    assert resources.num_free(job, [HEAD, BUSY, SMALL]) == 1
