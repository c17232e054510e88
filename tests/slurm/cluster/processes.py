"""Finds and kills the processes of a cluster, whatever their parent is.

`python -m tests.slurm.cluster.processes OWNER FOLDER NAME` waits for a process to end, and then kills what it left.
"""

import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

DAEMONS = ("slurmctld", "slurmscriptd", "slurmd")
KILL_S = 60.0
"""Seconds that processes may take to end after SIGKILL."""


def of_cluster(folder: Path, name: str) -> list[psutil.Process]:
    """The daemons of the cluster `name` in `folder`, its jobs' slurmstepd, and what the jobs started; no zombies."""
    return [process for process in psutil.process_iter() if _belongs(process, folder, name)]


def of_jobs(folder: Path, name: str) -> list[psutil.Process]:
    """The processes of `of_cluster` that are no daemons."""
    found = []
    for process in of_cluster(folder, name):
        with suppress(psutil.Error):
            if process.name() not in DAEMONS:
                found.append(process)
    return found


def kill_cluster(folder: Path, name: str) -> list[psutil.Process]:
    """Kill all processes of a cluster, and return those that still live after KILL_S."""
    deadline_s = time.monotonic() + KILL_S
    while (processes := of_cluster(folder, name)) and time.monotonic() < deadline_s:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)  # and look again: more may have started meanwhile
    return processes


def _belongs(process: psutil.Process, folder: Path, name: str) -> bool:
    # A user's shell does not belong to the cluster, even with SLURM_CONF set, nor does what was started from it.
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environ = process.environ()
        if environ.get("SLURM_CLUSTER_NAME") == name:  # Slurm sets it for its jobs
            return True
        if not process.name().startswith("slurm"):
            return False
        # slurmstepd writes its title over its environment, but keeps the log of its node open.
        starts = environ.get("SLURM_CONF") == str(folder / "slurm.conf")
        return starts or any(Path(file.path).is_relative_to(folder / "log") for file in process.open_files())
    except psutil.Error:
        return False


def main(owner: int, folder: Path, name: str) -> int:
    """Wait until the process `owner` has ended, then kill its cluster. Returns the number of survivors."""
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(owner)], [], [])
    return len(kill_cluster(folder, name))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
