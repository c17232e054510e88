"""The folder of a job array: all that its tasks need, on every node."""

from pathlib import Path

from foretrain.launcher.array.ending import ENDED, STARTS, ended_path
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.task import TASKS_FILE, to_text
from foretrain.launcher.job import Job
from foretrain.launcher.snapshot import snapshot
from foretrain.trainer.environment import record


def write(array: JobArray, job: Job) -> None:
    """Make the folder: the code, the commands, and what it was started from. No task of it has ended any more.

    job: of `as_job`.
    """
    for folder in (job.logs, array.folder / ENDED, array.folder / STARTS):
        folder.mkdir(parents=True, exist_ok=True)
    for task in array.tasks:
        ended_path(array.folder, task.name).unlink(missing_ok=True)
    (array.folder / TASKS_FILE).write_text(to_text(array.tasks), encoding="utf-8")
    record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, array.folder)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
