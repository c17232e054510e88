"""Training runs on a real Slurm: stopped at the time limit, preempted, cancelled, and each with the curve of one that
was not.
"""

import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from foretrain.configs import load as configs
from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.restart import read_starts
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.cli import CONFIG, assert_refused, called
from tests.conftest import RunOnRanks
from tests.processes import assert_none, command, of_folder, wait_until
from tests.slurm.cluster.cluster import Cluster

NUM_STEPS = 60
ON_CPUS = ("train.device=cpu", "launch.slurm.options=[--gres=gpu:1]")
"""Slurm gives the job GPUs, which are simulated ones."""
FOUR_RANKS = ("parallel.dp=2", "parallel.pp=2", "cluster.num_nodes=2", "cluster.gpus_per_node=2", *ON_CPUS)
TWO_RANKS = ("parallel.dp=2", "cluster.num_nodes=2", "cluster.gpus_per_node=1", *ON_CPUS)

Curve = list[tuple[int, float, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A user's folder, which all nodes see: `tiny.yaml` and its corpus."""
    folder = tmp_path_factory.mktemp("slurm user")
    num_tokens = NUM_STEPS * 8 * 32
    config = re.sub(r"num_tokens: \d+", f"num_tokens: {num_tokens}", CONFIG, count=1)
    (folder / "tiny.yaml").write_text(f"{config}launch: {{cpus_per_rank: 1}}\n", encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, ranks: RunOnRanks) -> Callable[[tuple[str, ...]], Curve]:
    """uninterrupted(layout) -> the curve of a run on this machine that was never stopped."""

    @cache
    def train(layout: tuple[str, ...]) -> Curve:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_dir = folder / f"runs/uninterrupted-{len(layout)}"
            run = prepare_run(configs.load("tiny.yaml", ["sample.prompts=[]", f"run_dir={run_dir}", *layout]))
            ranks(run.layout.world_size, train_rank, run)
        assert len(curve(run_dir)) == NUM_STEPS
        return curve(run_dir)

    return train


@pytest.fixture
def launched(folder: Path, slurm: Cluster) -> Iterator[Callable[..., tuple[str, Path]]]:
    """launched(name, *overrides) -> the id of a Slurm job, and the run's folder. At the end, nothing of it runs."""
    run_dirs = []

    def launch(name: str, *overrides: str) -> tuple[str, Path]:
        run_dir = folder / "runs" / name
        run_dirs.append(run_dir)
        arguments = ("launch", "tiny.yaml", "--on", "slurm", f"run_dir=runs/{name}", *overrides)
        result = called(*arguments, cwd=folder, SLURM_CONF=slurm.env["SLURM_CONF"])
        assert (result.status, result.err) == (0, "")
        found = re.search(r"^Slurm job (\d+) is submitted$", result.out, re.MULTILINE)
        assert found is not None
        assert f"scancel {found[1]}" in result.out
        return found[1], run_dir

    yield launch
    for run_dir in run_dirs:
        assert_none(run_dir)


def curve(run_dir: Path) -> Curve:
    """Step, loss and gradient norm of each step."""
    records = read_metrics(run_dir / METRICS_FILE) if (run_dir / METRICS_FILE).exists() else []
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records if record["kind"] == "train"]


def log_of(run_dir: Path, job_id: str) -> str:
    """What the batch script of a job says."""
    return (run_dir / f"logs/slurm-{job_id}.log").read_text(encoding="utf-8")


def ranks_of(run_dir: Path) -> list[psutil.Process]:
    """The processes that train, and not the srun that waits for them."""
    return [rank for rank in of_folder(run_dir) if command(rank)[1:4] == ["-m", "foretrain", "train"]]


def pause(run_dir: Path, num_ranks: int) -> list[psutil.Process]:
    """Wait until the run is well on its way, and stop its ranks where they are, so that what comes finds them there."""
    wait_until(lambda: len(curve(run_dir)) >= 10)
    paused = ranks_of(run_dir)
    assert len(paused) == num_ranks
    for rank in paused:
        rank.suspend()
    assert len(curve(run_dir)) < NUM_STEPS
    return paused


def resume_when_asked_to_stop(paused: list[psutil.Process], signum: int) -> None:
    """Let ranks run again once each of them has been sent a signal."""
    wait_until(lambda: all(is_pending(signum, rank.pid) for rank in paused))
    for rank in paused:
        rank.resume()


def is_pending(signum: int, pid: int) -> bool:
    """Whether a process was sent a signal that it has not yet handled."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    pending = [int(field.split()[1], 16) for field in fields if field.startswith(("ShdPnd:", "SigPnd:"))]
    return any(mask & 1 << (signum - 1) for mask in pending)


@pytest.mark.long
def test_stopped_at_its_time_limit_a_job_is_queued_again_until_it_is_done_on_the_same_curve(
    launched: Callable[..., tuple[str, Path]], uninterrupted: Callable[[tuple[str, ...]], Curve], slurm: Cluster
) -> None:
    # The limit is lowered once the ranks train: on a busy machine their start alone may take minutes.
    job_id, run_dir = launched("limit", *FOUR_RANKS, "launch.slurm.time=60", "launch.stop_lead_s=60")
    paused = pause(run_dir, 4)
    minutes = slurm.run_minutes(job_id) + 1
    slurm.run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes}")
    resume_when_asked_to_stop(paused, signal.SIGUSR2)
    slurm.wait_for_requeue(job_id)
    slurm.run("scontrol", "update", f"JobId={job_id}", "TimeLimit=60")
    slurm.wait(job_id, "COMPLETED")
    assert curve(run_dir) == uninterrupted(FOUR_RANKS)

    steps = [start.step for start in read_starts(run_dir)]
    assert len(steps) >= 2 and 0 == steps[0] < steps[1] < NUM_STEPS
    ledger = Ledger(facts.read(run_dir))
    assert ledger.num_starts == len(steps)
    assert ledger.seconds["queue"] > 10 * ledger.seconds["down"], "between its starts the job waited in the queue"
    log = log_of(run_dir, job_id)
    # Slurm may kill a rank that exits later than others.
    stopped = r"status 85; stopped when asked to|status (137|143); a rank was killed \(status (137|143)\)"
    assert re.search(rf"({stopped}): resumes from step {steps[1]}\b", log)
    assert log.rstrip().endswith("status 0; done")
    assert sorted(path.name for path in (run_dir / "logs").iterdir()) == [
        *(f"rank-{rank:03d}.log" for rank in range(4)),
        f"slurm-{job_id}.log",
    ]
    for rank, node in enumerate(["n1", "n1", "n2", "n2"]):
        assert re.match(
            rf"--- rank {rank} starts, .*, on {node}\n", (run_dir / f"logs/rank-{rank:03d}.log").read_text()
        )


@pytest.mark.long
def test_preempted_by_a_higher_partition_a_job_resumes_later_on_the_same_curve(
    launched: Callable[..., tuple[str, Path]], uninterrupted: Callable[[tuple[str, ...]], Curve], slurm: Cluster
) -> None:
    job_id, run_dir = launched("preempted", *TWO_RANKS, "launch.slurm.partition=low")
    paused = pause(run_dir, 2)
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    )
    resume_when_asked_to_stop(paused, signal.SIGUSR2)
    slurm.wait(urgent, "COMPLETED")
    slurm.wait(job_id, "COMPLETED")
    assert slurm.restarts(job_id) >= 1
    assert curve(run_dir) == uninterrupted(TWO_RANKS)
    assert "resumes from step" in log_of(run_dir, job_id)


@pytest.mark.long
def test_with_fewer_nodes_an_elastic_job_continues_with_fewer_ranks_on_the_same_curve(
    launched: Callable[..., tuple[str, Path]],
    uninterrupted: Callable[[tuple[str, ...]], Curve],
    slurm: Cluster,
    drain: Callable[[str], object],
) -> None:
    expected = uninterrupted(TWO_RANKS)
    job_id, run_dir = launched("elastic", *TWO_RANKS, "parallel.dp=null", "launch.elastic=1:2")
    paused = pause(run_dir, 2)
    drain("n[2-4]")
    slurm.run("scancel", "--batch", "--signal=USR2", job_id)
    resume_when_asked_to_stop(paused, signal.SIGUSR2)
    slurm.wait(job_id, "COMPLETED")
    first, *_, last = read_starts(run_dir)
    assert (first.step, last.step < NUM_STEPS) == (0, True)
    layouts = re.findall(r"runs/elastic: (dp=\d)", (run_dir / "logs/rank-000.log").read_text())
    assert (layouts[0], layouts[-1]) == ("dp=2", "dp=1")
    assert curve(run_dir) == [
        (step, pytest.approx(loss, rel=1e-5), pytest.approx(norm, rel=1e-4)) for step, loss, norm in expected
    ]


@pytest.mark.long
def test_cancelled_a_job_stays_cancelled_and_its_script_resumes_on_the_same_curve_when_it_is_submitted_again(
    launched: Callable[..., tuple[str, Path]],
    uninterrupted: Callable[[tuple[str, ...]], Curve],
    slurm: Cluster,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = uninterrupted(TWO_RANKS)  # first: the fork server must not have SLURM_CONF in its environment
    job_id, run_dir = launched("cancelled", *TWO_RANKS)
    pause(run_dir, 2)  # Slurm wakes them up
    again = ("launch", "tiny.yaml", "--on", "slurm", "run_dir=runs/cancelled", *TWO_RANKS)
    refused = called(*again, cwd=folder, SLURM_CONF=slurm.env["SLURM_CONF"])
    assert_refused(refused, f"was launched as slurm job {job_id}", "still waits or runs", "stop it")

    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    launcher = LAUNCHERS.get("slurm")
    assert [(job.id, job.state) for job in launcher.stop(run_dir)] == [(job_id, "running")]
    slurm.wait(job_id, "CANCELLED")
    wait_until(lambda: launcher.active(run_dir, LaunchConfig()) == [])
    assert [path.name for path in launcher.logs(run_dir)] == ["rank-000.log", "rank-001.log", f"slurm-{job_id}.log"]
    assert_none(run_dir)
    assert (slurm.state(job_id), slurm.restarts(job_id)) == ("CANCELLED", 0)
    done = len(curve(run_dir))
    assert curve(run_dir) == expected[:done]
    assert done < NUM_STEPS

    next_id = slurm.run("sbatch", "--parsable", str(run_dir / "job.sbatch"))
    slurm.wait(next_id, "COMPLETED")
    assert curve(run_dir) == expected
    (cancelled, resumed) = read_starts(run_dir)
    assert (cancelled.job, cancelled.step, resumed.job) == (job_id, 0, next_id)
    complete = called(*again, cwd=folder, SLURM_CONF=slurm.env["SLURM_CONF"])
    assert (complete.status, complete.out.startswith("runs/cancelled is complete: ")) == (0, True)
    assert resumed.step == done  # they wrote a checkpoint before they were gone
