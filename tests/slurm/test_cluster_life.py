"""The life of the private Slurm: how it starts, and that nothing is left of it, however it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import psutil
import pytest

from tests.processes import DEADLINE_S, left_behind, mentions, of_folder, snapshot, wait_until
from tests.slurm.cluster import cluster as cluster_module
from tests.slurm.cluster.cluster import MAX_FOLDER_LENGTH, Cluster, missing
from tests.sockets import listening, on_the_network

pytestmark = pytest.mark.long

JOB = ("sbatch", "--nodes=2", "--output=/dev/null", "--wrap=srun sleep 1000")
ROOT = Path(__file__).parents[2]


def wait_for_sleep(processes: Callable[[], Collection[psutil.Process]]) -> Collection[psutil.Process]:
    """Wait until both tasks of JOB are among `processes`, and return those."""
    wait_until(lambda: [name(process) for process in processes()].count("sleep") == 2, "two tasks")
    return processes()


def name(process: psutil.Process) -> str:
    """What a process runs; empty where it is gone."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize("daemons_die", [False, True])
def test_nothing_is_left_of_a_cluster_that_ends_with_a_job_running(
    installed: None, short_path: Path, daemons_die: bool
) -> None:
    before = snapshot()
    with Cluster(short_path, num_nodes=2) as own:
        own.run(*JOB)
        running = wait_for_sleep(own.processes)
        assert {name(process) for process in running} >= {"slurmctld", "slurmd", "slurmstepd", "slurm_script", "srun"}
        if daemons_die:
            for daemon in own.daemons:
                daemon.kill()
                daemon.wait()
    assert [process for process in running if process in left_behind(before, lambda _: True, within_s=0)] == []
    assert left_behind(before, mentions(short_path)) == []
    assert own.processes() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster_started_by_hand_however_it_ends(
    installed: None, short_path: Path, signum: int
) -> None:
    before = snapshot()
    command = [sys.executable, "-m", "tests.slurm.cluster", str(short_path), "--nodes=2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as by_hand:
        assert by_hand.stdout is not None
        result = "".join(by_hand.stdout.readline() for _ in range(4))
        assert "2 nodes are idle" in result and f"export SLURM_CONF={short_path}/slurm.conf" in result
        environ = {**os.environ, "SLURM_CONF": f"{short_path}/slurm.conf"}
        subprocess.run(JOB, env=environ, check=True, capture_output=True)
        wait_for_sleep(lambda: [process for process in snapshot() - before if mentions(short_path)(process)])
        by_hand.send_signal(signum)
        assert by_hand.wait(timeout=DEADLINE_S) == (-signum if signum == signal.SIGKILL else 0)
    assert left_behind(before, mentions(short_path)) == []


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(
    installed: None, short_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="a cluster runs there already"), Cluster(slurm.folder):
        pass
    before = snapshot()
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        ports = [listener.getsockname()[1], *cluster_module.free_ports(4)]
        monkeypatch.setattr(cluster_module, "free_ports", lambda num_ports: ports)
        with pytest.raises(RuntimeError, match=r"(?s)slurmctld.*ended with 1.*Address already in use"):
            Cluster(short_path).__enter__()
    assert left_behind(before, mentions(short_path)) == []


def test_without_its_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    monkeypatch.setattr(cluster_module, "_path", lambda: str(short_path))
    assert set(missing()) >= {"slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue"}
    with pytest.raises(RuntimeError, match=r"slurmctld.*not installed.*apt-get install slurm-wlm"), Cluster(short_path):
        pass
    assert list(short_path.iterdir()) == []


def test_what_slurm_could_not_do_is_refused(short_path: Path) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_FOLDER_LENGTH} characters"):
        Cluster(short_path / ("x" * MAX_FOLDER_LENGTH))
    with pytest.raises(ValueError, match="no spaces"):
        Cluster(Path("/tmp/a cluster"))
    for numbers in ({"num_nodes": 0}, {"cpus_per_node": 0}, {"gpus_per_node": 65}):
        with pytest.raises(ValueError, match="1 node or more"):
            Cluster(Path("/tmp/cluster"), **numbers)


def test_a_cluster_listens_on_loopback_only_and_believes_nobody_without_its_key(
    installed: None, short_path: Path
) -> None:
    with Cluster(short_path, num_nodes=2, cpus_per_node=2) as cluster:
        cluster.run(*JOB)
        processes = wait_for_sleep(cluster.processes)
        assert len(listening(processes)) > 3
        assert on_the_network([*processes, *of_folder(short_path)]) == {}
        assert short_path.stat().st_mode & 0o077 == 0
        foreign = short_path / "foreign.conf"
        text = (
            (short_path / "slurm.conf")
            .read_text()
            .replace("auth/munge", "auth/none")
            .replace("cred/munge", "cred/none")
        )
        foreign.write_text(text)
        env = {**cluster.env, "SLURM_CONF": str(foreign)}
        refused = subprocess.run(["scancel", "--me"], env=env, capture_output=True, text=True, check=False)
        assert refused.returncode != 0, refused
        assert [*map(name, cluster.processes())].count("sleep") == 2
