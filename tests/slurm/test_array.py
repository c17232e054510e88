"""Many commands as a Slurm array: its script, and arrays on a real Slurm, with commands that end in every way."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from foretrain.configs.launching import LaunchConfig, SlurmConfig
from foretrain.launcher.active import refuse_active
from foretrain.launcher.array import run
from foretrain.launcher.array import slurm as arrays
from foretrain.launcher.array.ending import status_of
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.task import Task
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import launches
from tests.launcher.array.programs import job_array, most_at_once, words
from tests.processes import assert_none, wait_until
from tests.required import not_here
from tests.slurm.cluster.cluster import Cluster

GOLDEN = Path(__file__).parents[1] / "launcher/array/golden"
ENVIRON = {"HOME": "/my/home", "PATH": "/usr/bin:/bin", "HF_TOKEN": "hush", "EDITOR": "vi"}
BRIEF = "note('begin'); time.sleep(0.5); note('end')"
EVERY_S = 0.1


def rendered(name: str) -> str:
    """The script of a golden file."""
    tasks = tuple(Task(f"t{place}", ("true",)) for place in range(5))
    folder, workdir = Path("/scratch/it's 100% new"), Path("/scratch/my work")
    if name == "cpus.sbatch":
        slurm = SlurmConfig(partition="cpu", time="1:00:00", options=["--exclusive"])
        launch = LaunchConfig(
            cpus_per_rank=2, env=["HOME", "NOTE=it's $5", "HF_TOKEN"], setup=["module load python"], slurm=slurm
        )
        made = JobArray(
            "my sweep", folder, tasks, launch, ranks=2, at_once=2, workdir=workdir, python="/opt/bin/python"
        )
        return arrays.render(made, environ=ENVIRON)
    launch = LaunchConfig(env=["PATH"], stop_lead_s=60)
    made = JobArray("sweep", folder, tasks, launch, ranks=4, on_gpus=True, workdir=workdir, python="/opt/bin/python")
    return arrays.render(made, range(3, 5), ENVIRON)


@pytest.mark.parametrize("name", ["cpus.sbatch", "gpus.sbatch"])
def test_the_script_of_an_array_is_the_golden_one_and_has_no_shell_mistakes(name: str) -> None:
    text = rendered(name)
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    if shutil.which("shellcheck") is None:
        not_here("shellcheck is not installed: apt-get install shellcheck")
    command = ["shellcheck", "--severity=warning", "--exclude=SC1090", "-"]
    subprocess.run(command, input=text, text=True, check=True)


def test_every_task_is_in_one_array_whose_indices_slurm_takes() -> None:
    assert arrays.parts(5, 1001) == [range(5)]
    assert arrays.parts(5, 2) == [range(2), range(2, 4), range(4, 5)]
    assert arrays.parts(4, 2) == [range(2), range(2, 4)]


@pytest.fixture
def here(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The real Slurm is that of this process."""
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-99")  # as in the shell of a user
    monkeypatch.setenv("SLURM_NTASKS", "9")
    return slurm


def submit(array: JobArray) -> list[str]:
    """Start the tasks as the launcher does, without waiting for their ends; return the ids of Slurm's arrays."""
    run.write(array, as_job(array, os.environ))
    return arrays.submit(array)


@pytest.mark.long
def test_each_command_runs_once_on_some_node_and_one_that_fails_is_reported_with_its_log(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_ALLOWED", "x")
    programs = dict.fromkeys("abcd", f"print(sorted(os.environ.items())); {BRIEF}") | {
        "e": "print('a bug'); sys.exit(3)"
    }
    made = job_array(tmp_path, programs, ranks=2, on_gpus=True, cpus_per_rank=4)  # a task fills a node
    (array,) = submit(made)
    with pytest.raises(ValueError, match=f"was launched as slurm job {array}, which still waits or runs"):
        refuse_active(made.folder, LAUNCHERS.get("slurm"), made.launch)
    ends = {ended.name: ended for ended in arrays.follow(made.folder, EVERY_S)}
    assert {name: ended.status for name, ended in ends.items()} == {**dict.fromkeys("abcd", 0), "e": 3}
    assert [words(tmp_path, name) for name in "abcd"] == [["begin", "end"]] * 4
    assert [(launch.on, launch.id) for launch in launches(made.folder)] == [("slurm", array)]
    assert ends["e"].log == made.folder / "logs/e.log"
    log = ends["e"].log.read_text().splitlines()
    assert log[0].startswith("--- task e starts, ")
    assert log[1:2] == ["a bug"] and log[2].endswith(f"job {array}_4: failed with status 3: see above")
    logs = [(made.folder / f"logs/{name}.log").read_text() for name in "abcd"]
    assert len({log.partition(", on ")[2].partition(",")[0] for log in logs}) > 1, "nodes"
    assert all("TEST_FOLDER" in log and "NOT_ALLOWED" not in log for log in logs)
    assert all("('CUDA_VISIBLE_DEVICES', '0,1')" in log for log in logs)


@pytest.mark.long
def test_no_more_run_at_once_than_asked_even_if_slurm_accepts_only_small_arrays(
    here: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "max_array_size", lambda: 3)
    made = job_array(tmp_path, dict.fromkeys("abcde", BRIEF), at_once=2)
    assert len(submit(made)) == 2
    assert arrays.unfinished(made.folder) == set("abcde")
    assert {ended.name: ended.status for ended in arrays.follow(made.folder, EVERY_S)} == dict.fromkeys("abcde", 0)
    assert [words(tmp_path, name) for name in "abcde"] == [["begin", "end"]] * 5
    assert most_at_once(tmp_path, [*"abcde"]) == 2


def test_what_is_killed_or_preempted_or_asks_for_it_is_started_again_and_alone(here: Cluster, tmp_path: Path) -> None:
    first = f"again = os.path.exists({str(tmp_path)!r} + '/notes-' + '%s'); note('start'); again and sys.exit(0); "
    programs = {
        "steady": "note('start'); time.sleep(3)",
        "asks": first % "asks"
        + "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(85)); note('ready'); time.sleep(100)",
        "requeued": first % "requeued" + "time.sleep(100)",
        "killed": first % "killed" + "os.kill(os.getpid(), signal.SIGKILL)",  # the last one's id is that of the array
    }
    made = job_array(tmp_path, programs)
    (array,) = submit(made)
    wait_until(lambda: all(words(tmp_path, name) for name in ("asks", "killed", "requeued")))
    here.run("scontrol", "requeue", f"{array}_2")
    wait_until(lambda: "ready" in words(tmp_path, "asks"))
    here.run("scancel", "--batch", "--signal=USR2", f"{array}_1")
    for index in (1, 2, 3):
        here.wait_for_requeue(f"{array}_{index}")
    assert {ended.status for ended in arrays.follow(made.folder, EVERY_S)} == {0}
    assert [words(tmp_path, name).count("start") for name in programs] == [1, 2, 2, 2]
    log = (made.folder / "logs/killed.log").read_text()
    assert "was killed (status 137): is started again" in log and log.rstrip().endswith(": done")
    assert "stopped when asked to: is started again" in (made.folder / "logs/asks.log").read_text()


@pytest.mark.long
def test_nothing_is_left_of_an_array_that_is_cancelled_and_it_can_be_started_again(
    here: Cluster, tmp_path: Path
) -> None:
    sleeps = "import subprocess; note('start'); subprocess.run(['sleep', '1000'])"
    made = job_array(tmp_path, {"a": sleeps, "b": sleeps, "c": sleeps}, at_once=2)
    submit(made)
    wait_until(lambda: sum(words(tmp_path, name) == ["start"] for name in "abc") == 2)
    slurm = LAUNCHERS.get("slurm")
    assert [job.state for job in slurm.stop(made.folder)] == ["running"]
    wait_until(lambda: slurm.active(made.folder, made.launch) == [], "the end of the array")
    assert arrays.unfinished(made.folder) == frozenset()
    assert_none(tmp_path)
    assert [ended.status for ended in arrays.follow(made.folder, EVERY_S)] == [None] * 3
    submit(job_array(tmp_path, {"b": "sys.exit(5)"}))
    assert [ended.status for ended in arrays.follow(made.folder, EVERY_S)] == [5]
    assert status_of(made.folder, "b") == 5
