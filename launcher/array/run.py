"""Runs a job array with any launcher that can."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from foretrain.launcher.active import refuse_active
from foretrain.launcher.array import folder
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.watch import Ended
from foretrain.launcher.protocol import Launcher
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
        folder.write(array, as_job(array, os.environ))
        with launcher.arrays.run(array) as ends:
            yield ends
