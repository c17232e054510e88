"""Runs a job array with any launcher that can."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from foretrain.files import write_atomically
from foretrain.launcher.active import refuse_active
from foretrain.launcher.array.ending import ENDED, STARTS, ended_path
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.task import TASKS_FILE, to_text
from foretrain.launcher.array.watch import Ended
from foretrain.launcher.job import Job
from foretrain.launcher.protocol import Launcher
from foretrain.launcher.snapshot import snapshot
from foretrain.trainer.run.environment import record
from foretrain.trainer.run.lock import locked


@contextmanager
def running(array: JobArray, launcher: Launcher) -> Iterator[Iterator[Ended]]:
    """Write the array's folder, start its tasks, and yield an iterator over their ends.

    Raises ValueError if tasks of the folder wait or run already, or if the launcher cannot start them.
    """
    assert launcher.arrays is not None
    launcher.check(array.launch)
    with locked(array.folder):
        refuse_active(array.folder, launcher, array.launch)
        write(array, as_job(array, os.environ))
        with launcher.arrays.run(array) as ends:
            yield ends


def write(array: JobArray, job: Job) -> None:
    """Make the array's folder: the code, the commands, and what it was started from. Then no task counts as ended.

    job: what `as_job` returned.
    """
    for folder in (job.logs, array.folder / ENDED, array.folder / STARTS):
        folder.mkdir(parents=True, exist_ok=True)
    for task in array.tasks:
        ended_path(array.folder, task.name).unlink(missing_ok=True)
    write_atomically(array.folder / TASKS_FILE, to_text(array.tasks))
    record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, array.folder)
