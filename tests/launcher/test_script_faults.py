"""Batch scripts on a file system that fails for a while: they wait, and do not take its silence for an answer."""

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from foretrain.configs.schema import Config
from foretrain.launcher.array import slurm as arrays
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.task import TASKS_FILE, Task, to_text
from foretrain.launcher.job import make_job
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.slurm.script import SECRETS

PYTHON = """#!/bin/bash
# Each question gets no answer twice, as if its code could not be read. Then it gets that of the file ANSWERS/MODULE.
echo "$*" >>"$ANSWERS/asked"
[ "$(grep --count --fixed-strings -e "$*" "$ANSWERS/asked")" -gt 2 ] || { echo "Input/output error" >&2; exit 1; }
. "$ANSWERS/$2"
"""
SLEEP = """#!/bin/bash
# The file system is back after the second pause.
echo x >>"$ANSWERS/pauses"
[ "$(wc -l <"$ANSWERS/pauses")" -lt 2 ] || cp -r "$ANSWERS/later/." "$FOLDER"
"""
SCONTROL = """#!/bin/bash
case $* in
    *hostnames*) echo n1 ;;
    *node*) echo "NodeName=n1 NodeAddr=10.0.0.7 x" ;;
    *) echo "$*" >>"$ANSWERS/requeued" ;;
esac
"""
SRUN = """#!/bin/bash
echo "ranks meet at $MASTER_ADDR:$MASTER_PORT, with $MY_SECRET_KEY"
exit 86
"""
ANSWERS = {
    "foretrain.launcher.rendezvous": "echo 20001",
    "foretrain.launcher.restart": 'if [ "$3" = decide ]; then echo "lost a file system: resumes"; fi; exit 0',
    "foretrain.launcher.array.ending": "echo done; exit 1",
}


@dataclass
class Node:
    """A machine with a Slurm that does nothing but what the programs above say."""

    folder: Path
    """The folder of a run, or of an array. What is in `later` appears in it after two pauses."""
    answers: Path

    @property
    def path(self) -> str:
        """PATH, with the programs of this machine."""
        return f"{self.answers / 'bin'}:{os.environ['PATH']}"

    @property
    def later(self) -> Path:
        return self.answers / "later"

    def run(self, script: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        ours = {"PATH": self.path, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "n1"}
        command = ["bash", "-c", script]
        return subprocess.run(command, env={**ours, **variables}, capture_output=True, text=True, check=False)

    def asked(self) -> list[str]:
        """The questions to foretrain, in order."""
        return (self.answers / "asked").read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "the run", tmp_path / "answers")
    for folder in (made.folder / "logs", made.later, made.answers / "bin"):
        folder.mkdir(parents=True)
    programs = {"python": PYTHON, "sleep": SLEEP, "scontrol": SCONTROL, "srun": SRUN}
    for name, text in programs.items():
        text = text.replace("$ANSWERS", str(made.answers)).replace("$FOLDER", str(made.folder))
        (made.answers / "bin" / name).write_text(text)
        (made.answers / "bin" / name).chmod(0o755)
    for name, text in ANSWERS.items():
        (made.answers / name).write_text(text)
    return made


def job_script(node: Node) -> str:
    """The script of a run. Its secrets are to be read later."""
    environ = {"MY_SECRET_KEY": "a key", "PATH": node.path}
    config = Config(run_dir=str(node.folder))
    config.launch.env = ["PATH", "MY_SECRET_KEY"]
    job = replace(make_job(config, workdir=node.folder, environ=environ), python=str(node.answers / "bin/python"))
    script = LAUNCHERS.get("slurm").render(job, config.launch)
    (node.later / SECRETS).write_text(script.private_files[SECRETS])
    return script.text


def test_a_job_waits_until_its_code_and_its_secrets_can_be_read_and_is_then_started_again(node: Node) -> None:
    ended = node.run(job_script(node))
    assert ended.returncode == 86, ended.stderr
    assert "ranks meet at 10.0.0.7:20001, with a key" in ended.stdout
    assert "the ranks ended with status 86; lost a file system: resumes" in ended.stdout
    assert (node.answers / "requeued").read_text() == "requeue incomplete 7\n"
    assert len(node.asked()) == 9, "each of three questions is asked until it is answered"


def test_a_start_that_is_refused_is_not_asked_for_again(node: Node) -> None:
    (node.answers / "foretrain.launcher.restart").write_text("echo the job gives up; exit 1")
    ended = node.run(job_script(node))
    assert (ended.returncode, "the job gives up" in ended.stdout) == (1, True)
    assert sum("record-start" in each for each in node.asked()) == 3
    assert "ranks meet" not in ended.stdout


def test_a_task_of_an_array_waits_for_the_list_of_tasks(node: Node) -> None:
    array = JobArray("x", node.folder, (Task("t0", ("echo", "hello")),), Config().launch)
    array = replace(array, python=str(node.answers / "bin/python"))
    (node.later / TASKS_FILE).write_text(to_text(array.tasks))
    ended = node.run(arrays.render(array, environ={"PATH": node.path}), SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="0")
    log = (node.folder / "logs/t0.log").read_text()
    assert (ended.returncode, "hello\n" in log, "done" in log) == (0, True, True), (ended, log)
