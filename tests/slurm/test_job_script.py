"""The batch script on a real Slurm, with ranks that end in every way: what it hands them, and what it makes of it."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.elastic import Sizes
from foretrain.launcher.job import Job, code_variables
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.protocol import Submitted
from tests.processes import wait_until
from tests.slurm.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests/launcher/fake_ranks"
KILLED = ("137", "143")
"""Exit statuses of ranks that exit with 85, but later than others: Slurm ends the step when the first rank exits."""
Submit = Callable[..., tuple[str, Path]]


@pytest.fixture
def submit(tmp_path: Path, slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """submit(what the ranks do at each start, ...) -> the id of a job, and its run's folder."""
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    monkeypatch.setenv("SBATCH_TIMELIMIT", "7")  # as in the shell of a user
    monkeypatch.setenv("SLURM_NTASKS", "9")
    monkeypatch.setenv("NOT_ALLOWED", "x")

    launcher = LAUNCHERS.get("slurm")

    def submit(
        fake: str,
        num_nodes: int = 1,
        gpus_per_node: int = 0,
        impatient: bool = False,
        sizes: Sizes | None = None,
        **launch: Any,
    ) -> tuple[str, Path]:
        run_dir = tmp_path / "the run"
        (run_dir / "logs").mkdir(parents=True)
        (tmp_path / "foretrain.py").write_text("raise SystemExit('a module of the user took the place of the package')")
        env = {**code_variables(FAKE), "FAKE": fake, "PATH": os.environ["PATH"], "MY_TOKEN": "it's $1"}
        env |= launch.pop("env", {})
        config = LaunchConfig(**launch)
        job = Job(
            name="run",
            run_dir=str(run_dir),
            workdir=str(tmp_path),
            python=sys.executable,
            num_nodes=num_nodes,
            ranks_per_node=2,
            cpus_per_rank=2,
            gpus_per_node=gpus_per_node,
            env=tuple(sorted(env.items())),
            max_starts=config.max_starts,
            sizes=sizes,
        )
        script = launcher.render(job, config)
        text = script.text.replace("1 2 4 8 15", "0.1") if impatient else script.text
        (run_dir / script.name).write_text(text)
        for name, secrets in script.private_files.items():
            (run_dir / name).write_text(secrets)
        submitted = launcher.submit(job, script, config)
        assert isinstance(submitted, Submitted)
        return submitted.id, run_dir

    return submit


def said(run_dir: Path, job_id: str) -> str:
    log = run_dir / f"logs/slurm-{job_id}.log"
    return log.read_text() if log.exists() else ""


def test_ranks_follow_the_nodes_meet_where_slurm_says_and_see_the_allow_list_and_nothing_else(
    submit: Submit, slurm: Cluster
) -> None:
    job_id, run_dir = submit("0", num_nodes=2, gpus_per_node=2)
    slurm.wait(job_id, "COMPLETED")
    logs = [(run_dir / f"logs/rank-{rank:03d}.log").read_text().splitlines() for rank in range(4)]
    seen = [json.loads(lines[1]) for lines in logs]
    assert [lines[0].rpartition(" ")[2] for lines in logs] == ["n1", "n1", "n2", "n2"]
    assert [env["RANK"] for env in seen] == ["0", "1", "2", "3"]
    assert [env["LOCAL_RANK"] for env in seen] == ["0", "1", "0", "1"]
    assert {(env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) for env in seen} == {("4", "2")}
    assert {env["MASTER_ADDR"] for env in seen} == {"127.0.0.1"}  # NodeAddr of n1
    assert len({env["MASTER_PORT"] for env in seen}) == 1
    assert {env["SLURM_CPUS_PER_TASK"] for env in seen} == {"2"}
    ours = {"PATH", "FAKE", "MY_TOKEN", *code_variables(FAKE)}
    ours |= {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    assert {env["MY_TOKEN"] for env in seen} == {"it's $1"}
    shells = {"PWD", "SHLVL", "_", "OLDPWD"}
    slurms = {"TMPDIR", "SRUN_DEBUG", "CUDA_VISIBLE_DEVICES"}
    slurms |= {"GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}  # for GPUs of other makers
    assert {env["CUDA_VISIBLE_DEVICES"] for env in seen} == {"0,1"}
    for env in seen:
        others = {name for name in env if not name.startswith(("SLURM", "PMI"))} - ours - shells - slurms
        assert others <= {"LC_CTYPE"}  # Python sets it itself in the C locale
        assert env["SLURM_NTASKS"] == "4"


def test_a_killed_rank_is_started_again_and_a_job_that_comes_no_further_gives_up(
    submit: Submit, slurm: Cluster
) -> None:
    job_id, run_dir = submit("killed first,85,0", max_starts=2)
    slurm.wait(job_id, "FAILED")
    log = said(run_dir, job_id)
    assert "the ranks ended with status 137; a rank was killed (status 137): resumes from the start" in log
    given_up = re.search(r"the ranks ended with status (\d+); 2 starts in a row did not reach a first checkpoint", log)
    assert given_up is not None and given_up[1] in ("85", *KILLED), log
    assert slurm.restarts(job_id) == 1
    assert slurm.show(job_id)["ExitCode"] == f"{given_up[1]}:0"
    assert (run_dir / "logs/rank-001.log").read_text().count("--- rank 1 starts") == 2


@pytest.mark.long
def test_an_elastic_job_continues_on_the_nodes_that_are_left_and_uses_a_number_that_fits(
    submit: Submit, slurm: Cluster, drain: Callable[[str], object]
) -> None:
    # Replicas of 2 ranks on nodes of 2 ranks. The sizes 1, 2 and 4 need as many nodes.
    job_id, run_dir = submit("sleep,sleep,0", num_nodes=4, sizes=Sizes((1, 2, 4), ranks_per_replica=2))
    for start, left, ranks in ((0, "n4", 8), (1, "n[2-3]", 4)):
        wait_until(lambda: len(list(run_dir.glob(f"ready-{start}-*"))) == ranks)  # noqa: B023
        drain(left)
        slurm.run("scancel", "--batch", "--signal=USR2", job_id)
        slurm.wait_for_requeue(job_id, start + 1)
    slurm.wait(job_id, "COMPLETED")
    log = (run_dir / "logs/rank-000.log").read_text()
    assert re.findall(r"^rank 0 of \d+: \w+", log, re.MULTILINE) == [
        "rank 0 of 8: sleep",
        "rank 0 of 4: sleep",
        "rank 0 of 2: 0",
    ]
    assert set(re.findall(r"on (n\d)$", log, re.MULTILINE)) == {"n1"}


@pytest.mark.long
@pytest.mark.parametrize("others", ["", "/sleep", "/deaf"])
@pytest.mark.parametrize(("status", "words"), [("93", "refused: what the ranks' logs say"), ("1", "a rank failed")])
def test_what_would_fail_again_is_not_started_again_whatever_the_other_ranks_do(
    status: str, words: str, others: str, submit: Submit, slurm: Cluster
) -> None:
    job_id, run_dir = submit(f"{status}{others},0")
    slurm.wait(job_id, "FAILED")
    assert f"the ranks ended with status {status}; {words}" in said(run_dir, job_id)
    assert (slurm.restarts(job_id), slurm.show(job_id)["ExitCode"]) == (0, f"{status}:0")


@pytest.mark.long
def test_a_warning_that_comes_before_the_ranks_are_there_is_not_lost(submit: Submit, slurm: Cluster) -> None:
    job_id, run_dir = submit("sleep,0", setup=["echo here", "sleep 1"])
    slurm.wait(job_id, "RUNNING")
    wait_until(lambda: "here" in said(run_dir, job_id))
    slurm.run("scancel", "--batch", "--signal=USR2", job_id)
    slurm.wait(job_id, "COMPLETED")
    assert slurm.restarts(job_id) == 1
    assert "the ranks ended with status 85; stopped when asked to: resumes from the start" in said(run_dir, job_id)


@pytest.mark.long
def test_a_warning_that_comes_while_the_ranks_are_started_is_not_lost(submit: Submit, slurm: Cluster) -> None:
    job_id, run_dir = submit("sleep,0")
    wait_until(lambda: "start 0 of 2 ranks" in said(run_dir, job_id))
    slurm.run("scancel", "--batch", "--signal=USR2", job_id)
    slurm.wait(job_id, "COMPLETED")
    assert slurm.restarts(job_id) == 1
    assert re.search(r"the ranks ended with status 14\d; a rank was killed", said(run_dir, job_id))


@pytest.mark.long
def test_without_the_address_of_the_first_node_there_is_no_run_rather_than_one_for_each_node(
    submit: Submit, slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "bin/scontrol", "exit 1")
    job_id, run_dir = submit("0", num_nodes=2, impatient=True, env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    slurm.wait(job_id, "FAILED")
    assert "scontrol does not report the address of the first node" in said(run_dir, job_id)
    assert not list((run_dir / "logs").glob("rank-*"))


@pytest.mark.long
def test_an_answer_that_slurm_fails_to_give_is_asked_for_again(submit: Submit, slurm: Cluster, tmp_path: Path) -> None:
    once = f'mkdir {tmp_path}/$1 2>/dev/null && exit 1; exec {shutil.which("scontrol")} "$@"'
    script(tmp_path / "bin/scontrol", once)
    job_id, _ = submit("85,0", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    slurm.wait_for_requeue(job_id)
    slurm.wait(job_id, "COMPLETED")
    assert {"show", "requeue"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.long
def test_a_job_that_is_cancelled_at_the_very_moment_in_which_it_queues_itself_again_stays_cancelled(
    submit: Submit, slurm: Cluster, tmp_path: Path
) -> None:
    real = shutil.which("scontrol")
    script(tmp_path / "bin/scontrol", f'[ "$1" != requeue ] || scancel "$SLURM_JOB_ID"; exec {real} "$@"')
    job_id, _ = submit("85,0", env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    slurm.wait(job_id, "CANCELLED")
    time.sleep(8)  # longer than a job that was queued again waits
    assert (slurm.state(job_id), slurm.restarts(job_id)) == ("CANCELLED", 0)


@pytest.mark.long
def test_lines_before_the_ranks_may_use_what_is_not_set_and_one_that_fails_ends_the_job(
    submit: Submit, slurm: Cluster
) -> None:
    job_id, run_dir = submit("0", setup=['[ -z "$PS1" ]', "module load cuda", "echo not reached"])
    slurm.wait(job_id, "FAILED")
    assert "launch.setup failed: module load cuda" in said(run_dir, job_id)
    assert "not reached" not in said(run_dir, job_id)


def script(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
