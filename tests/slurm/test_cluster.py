"""The private Slurm: that it treats jobs as the batch script of a run counts on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.slurm.cluster.cluster import Cluster

pytestmark = pytest.mark.long

STATE = "squeue --noheader --jobs=$SLURM_JOB_ID --format=%T"
FINAL = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT")
WAIT = "while kill -0 $steps 2>/dev/null; do wait $steps; done"


@pytest.fixture
def submit(slurm: Cluster, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """submit(script, *options) -> the id of a job that runs the lines of a script, and writes to tmp_path/log."""
    jobs: list[str] = []

    def submit(script: str, *options: str) -> str:
        (tmp_path / "job.sh").write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        log = (f"--output={tmp_path}/log", "--open-mode=append")
        jobs.append(slurm.run("sbatch", "--parsable", *log, *options, str(tmp_path / "job.sh")))
        return jobs[-1]

    yield submit
    for job in jobs:
        slurm.run("scancel", job)
        slurm.wait(job, *FINAL)


def read_log(tmp_path: Path) -> list[str]:
    """What the job itself wrote."""
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines() if (tmp_path / "log").exists() else []
    return [line for line in lines if not line.startswith(("slurmstepd", "srun"))]


def wait_for_line(tmp_path: Path, line: str) -> None:
    """Wait until a job has written a line."""
    wait_until(lambda: line in read_log(tmp_path), f"'{line}' in {tmp_path}/log")


def test_all_nodes_come_up_idle(slurm: Cluster) -> None:
    assert slurm.run("sinfo", "-h", "-p", "debug", "-o", "%D %t %c %G") == "4 idle 8 gpu:8"


def test_a_step_runs_its_tasks_on_several_nodes_and_gives_each_its_place(slurm: Cluster) -> None:
    result = slurm.run(
        *("srun", "--nodes=2", "--ntasks-per-node=2"), "bash", "-c", "echo $SLURM_PROCID $SLURM_NODEID $SLURMD_NODENAME"
    )
    assert sorted(result.splitlines()) == ["0 0 n1", "1 0 n1", "2 1 n2", "3 1 n2"]


def test_jobs_on_the_same_node_get_gpus_of_their_own(
    slurm: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    submit("echo holds $CUDA_VISIBLE_DEVICES; sleep 60", "--gres=gpu:2", "--nodelist=n1")
    wait_for_line(tmp_path, "holds 0,1")
    assert slurm.run("srun", "--gres=gpu:3", "--nodelist=n1", "printenv", "CUDA_VISIBLE_DEVICES") == "2,3,4"


def test_a_job_that_queues_itself_again_starts_again_and_knows_it(
    slurm: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit(
        f"""
        srun bash -c 'echo start ${{SLURM_RESTART_COUNT:-0}} of task $SLURM_PROCID' || exit 1
        [ -z "${{SLURM_RESTART_COUNT:-}}" ] || exit 0
        {STATE}
        scontrol requeue $SLURM_JOB_ID
        exit 85""",
        "--nodes=2",
    )
    slurm.wait_for_requeue(job)
    assert slurm.wait(job, *FINAL) == "COMPLETED"
    first, second = read_log(tmp_path)[:3], read_log(tmp_path)[3:]
    assert (sorted(first[:2]), first[2]) == (["start 0 of task 0", "start 0 of task 1"], "RUNNING")
    assert sorted(second) == ["start 1 of task 0", "start 1 of task 1"]
    assert slurm.restarts(job) == 1


def test_a_signal_for_the_batch_script_reaches_it_alone(
    slurm: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit(
        f"""
        trap 'echo script got USR2' USR2
        srun bash -c 'trap "echo task got USR2" USR2; echo ready; for i in {{1..600}}; do sleep 0.1; done' &
        steps=$!
        {WAIT}"""
    )
    wait_for_line(tmp_path, "ready")
    slurm.run("scancel", "--batch", "--signal=USR2", job)
    wait_for_line(tmp_path, "script got USR2")
    assert "task got USR2" not in read_log(tmp_path)
    slurm.run("scancel", "--signal=USR2", f"{job}.0")
    wait_for_line(tmp_path, "task got USR2")
    assert read_log(tmp_path).count("script got USR2") == 1


def test_preemption_warns_the_script_while_the_job_still_runs_and_it_starts_again_afterwards(
    slurm: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit(
        f"""
        trap 'echo warned; {STATE}; kill $steps' USR2
        [ -z "${{SLURM_RESTART_COUNT:-}}" ] || exit 0
        sleep 60 & steps=$!
        echo ready
        {WAIT}
        scontrol requeue $SLURM_JOB_ID
        exit 85""",
        *("--partition=low", "--nodes=4", "--exclusive", "--signal=B:USR2@10"),
    )
    wait_for_line(tmp_path, "ready")
    urgent = ("srun", "--partition=high", "--nodes=4", "--exclusive", "true")
    slurm.run(*urgent)
    slurm.wait_for_requeue(job)
    assert slurm.wait(job, *FINAL) == "COMPLETED"
    ready, warned, state = read_log(tmp_path)
    assert (ready, warned) == ("ready", "warned")
    assert state in ("RUNNING", "SIGNALING")  # SIGNALING: it runs, and Slurm is not yet done with sending the signal
    assert slurm.restarts(job) == 1


def test_a_job_that_is_cancelled_is_no_longer_running_when_its_script_and_tasks_get_the_signal(
    slurm: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit(
        f"""
        trap 'echo script got TERM; got=1' TERM
        srun bash -c 'trap "echo task got TERM; exit 85" TERM; echo ready; for i in {{1..600}}; do sleep 0.1; done' &
        steps=$!
        {WAIT}
        for i in {{1..40}}; do [ -z "${{got:-}}" ] || break; sleep 0.1; done  # Slurm signals the tasks first
        {STATE}"""
    )
    wait_for_line(tmp_path, "ready")
    slurm.run("scancel", job)
    assert slurm.wait(job, *FINAL) == "CANCELLED"
    ready, *result, state = read_log(tmp_path)
    assert (ready, state) == ("ready", "COMPLETING")
    assert set(result) >= {"script got TERM", "task got TERM"}
    assert slurm.restarts(job) == 0


def test_waiting_for_what_does_not_come_ends_and_says_where_the_job_is(
    slurm: Cluster, submit: Callable[..., str]
) -> None:
    job = submit("true", "--hold")
    with pytest.raises(TimeoutError, match=rf"job {job} is PENDING .*, not RUNNING, after 0.2 s"):
        slurm.wait(job, "RUNNING", timeout_s=0.2)
    with pytest.raises(TimeoutError, match=f"job {job} is PENDING and was not queued again"):
        slurm.wait_for_requeue(job, timeout_s=0.2)
    with pytest.raises(RuntimeError, match=r"scontrol show job -o 999999: status 1\n.*Invalid job id"):
        slurm.state("999999")
