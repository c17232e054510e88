"""The folder of a batch: all that its tasks need, on every node."""

from pathlib import Path

from foretrain.launcher.job import Job
from foretrain.launcher.many.batch import Batch
from foretrain.launcher.many.ending import ENDED, STARTS, ended_path
from foretrain.launcher.many.task import TASKS_FILE, to_text
from foretrain.launcher.snapshot import snapshot
from foretrain.trainer.environment import record


def write(batch: Batch, job: Job) -> None:
    """Make the folder: the code, the commands, and what it was started from. No task of it has ended any more.

    job: of `as_job`.
    """
    for folder in (job.logs, batch.folder / ENDED, batch.folder / STARTS):
        folder.mkdir(parents=True, exist_ok=True)
    for task in batch.tasks:
        ended_path(batch.folder, task.name).unlink(missing_ok=True)
    (batch.folder / TASKS_FILE).write_text(to_text(batch.tasks), encoding="utf-8")
    record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, batch.folder)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
