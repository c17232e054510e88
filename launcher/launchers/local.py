"""The launcher "local": a run on this machine, in the foreground."""

import os
import shlex
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.job import Job, code_variables, environment
from foretrain.launcher.launches import record_launch
from foretrain.launcher.local.supervise import MODULE
from foretrain.launcher.logs import log_files
from foretrain.launcher.protocol import ActiveJob, ArrayRunner, Script
from foretrain.trainer.run.lock import LOCK_FILE

SCRIPT = "job.sh"


def _supervisor_of(process: psutil.Process) -> psutil.Process:
    """The process that starts `process` again when it is killed, or itself."""
    with suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and MODULE in parent.cmdline():
            return parent
    return process


class LocalLauncher:
    """Starts all ranks as processes of this machine."""

    name = "local"
    uses_one_machine = True
    is_elastic = True
    arrays: ArrayRunner | None = None

    def in_foreground(self, launch: LaunchConfig) -> bool:
        """Always: no rank outlives the command."""
        return True

    def render(self, job: Job, launch: LaunchConfig) -> Script:
        """The script that trains on all ranks here, in the environment in which it is started."""
        _, settings = environment(launch.env, {})
        exports = {**settings, **{name: dict(job.env)[name] for name in code_variables(job.code)}}
        path = shlex.quote(str(job.folder / SCRIPT))
        elastic = [] if job.sizes is None else ["--sizes", str(job.sizes), "--device", job.device]
        supervise = [job.python, "-m", MODULE, "--max-starts", str(job.max_starts), *elastic, str(job.folder)]
        lines = [
            "#!/bin/bash",
            f"# A run of foretrain on one machine. To continue from its newest checkpoint: bash {path}",
            f"cd {shlex.quote(job.workdir)} || exit",
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            f"exec {shlex.join(supervise)} \\",
            f"  {shlex.join(job.command)}",
        ]
        return Script(SCRIPT, "\n".join([*lines, ""]))

    def check(self, launch: LaunchConfig) -> None:
        """Nothing is needed but this machine."""

    def active(self, folder: Path, launch: LaunchConfig) -> list[ActiveJob]:
        """The process that runs the folder's job on this machine: the one that supervises the holder of the lock.

        The lock may also be held by a run without a supervisor, or by a rank of a cluster's job, which is not found.
        """
        with suppress(OSError, ValueError, psutil.Error):
            lock = folder / LOCK_FILE
            _, pid, _, host = lock.read_text(encoding="utf-8").split()  # "process 12 on node3"
            process = psutil.Process(int(pid))
            # The number of a holder that has ended may have gone to a process that is younger than the lock.
            is_holder = host == socket.gethostname() and process.create_time() <= lock.stat().st_mtime
            if (
                is_holder
                and process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and "RANK" not in process.environ()
            ):
                return [ActiveJob(self.name, str(_supervisor_of(process).pid), "running")]
        return []

    def submit(self, job: Job, script: Script, launch: LaunchConfig) -> NoReturn:
        """Become the script in the run's folder: its signals and its exit status are those of this process."""
        record_launch(job.folder, self.name, str(os.getpid()))
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvp("bash", ["bash", str(job.folder / script.name)])

    def stop(self, folder: Path) -> list[ActiveJob]:
        """Have the run write a checkpoint and end."""
        active = self.active(folder, LaunchConfig())
        for job in active:
            with suppress(ProcessLookupError):
                os.kill(int(job.id), signal.SIGTERM)
        return active

    def logs(self, folder: Path) -> list[Path]:
        """The logs of all ranks but rank 0, which prints in the terminal."""
        return log_files(folder)
