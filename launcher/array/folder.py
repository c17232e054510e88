"""The folder of a job array: all that its tasks need, on every node."""

from foretrain.launcher.array.ending import ENDED, STARTS, ended_path
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.task import TASKS_FILE, to_text
from foretrain.launcher.job import Job
from foretrain.launcher.snapshot import snapshot
from foretrain.trainer.run.environment import record


def write(array: JobArray, job: Job) -> None:
    """Make the folder: the code, the commands, and what it was started from. No task counts as ended after that.

    job: what `as_job` returned.
    """
    for folder in (job.logs, array.folder / ENDED, array.folder / STARTS):
        folder.mkdir(parents=True, exist_ok=True)
    for task in array.tasks:
        ended_path(array.folder, task.name).unlink(missing_ok=True)
    (array.folder / TASKS_FILE).write_text(to_text(array.tasks), encoding="utf-8")
    record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, array.folder)
