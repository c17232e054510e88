"""A launcher that is not part of foretrain. It runs the script in the background, and job arrays task by task."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.ending import log_path, record_end
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.watch import Ended
from foretrain.launcher.job import Job
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import launches, record_launch
from foretrain.launcher.logs import log_files
from foretrain.launcher.protocol import ActiveJob, ArrayRunner, Script, Submitted


class OneByOne:
    """Runs the tasks of an array in this process's time, one after the other."""

    outlives_command = False

    @contextmanager
    def run(self, array: JobArray) -> Iterator[Iterator[Ended]]:
        yield self._run(array)

    def _run(self, array: JobArray) -> Iterator[Ended]:
        env = dict(as_job(array, {}).env)
        for task in array.tasks:
            log = log_path(array.folder, task.name)
            again = True
            while again:
                with log.open("ab") as file:
                    done = subprocess.run(task.command, env=env, cwd=array.workdir, stdout=file, stderr=file)
                again, _ = record_end(array.folder, task.name, "background", done.returncode, array.launch.max_starts)
            yield Ended(task.name, done.returncode, log)

    def follow(self, folder: Path) -> Iterator[Ended]:
        return iter(())


class BackgroundLauncher:
    """Starts all ranks on this machine, in a process that outlives the command."""

    name = "background"
    uses_one_machine = True
    arrays: ArrayRunner | None = OneByOne()

    def in_foreground(self, launch: LaunchConfig) -> bool:
        return False

    def render(self, job: Job, launch: LaunchConfig) -> Script:
        exports = [f"export {name}={shlex.quote(value)}" for name, value in job.env]
        return Script("job.background.sh", "\n".join([*exports, f"exec {shlex.join(job.command)}", ""]))

    def check(self, launch: LaunchConfig) -> None:
        pass

    def active(self, folder: Path, launch: LaunchConfig) -> list[ActiveJob]:
        return [ActiveJob(self.name, str(process.pid), "running") for process in self._processes(folder)]

    def _processes(self, folder: Path) -> list[psutil.Process]:
        pids = [int(launched.id) for launched in launches(folder)[-1:]]
        found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def submit(self, job: Job, script: Script, launch: LaunchConfig) -> Submitted:
        command = ["bash", str(job.folder / script.name)]
        with (job.logs / "background.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=job.workdir, stdout=log, stderr=log, start_new_session=True)
        record_launch(job.folder, self.name, str(process.pid))
        return Submitted(f"Process {process.pid}", str(process.pid), (f"tail -F {log.name}",), f"kill {process.pid}")

    def stop(self, folder: Path) -> list[ActiveJob]:
        active = self.active(folder, LaunchConfig())
        for process in self._processes(folder):
            process.terminate()
        return active

    def logs(self, folder: Path) -> list[Path]:
        return log_files(folder)


LAUNCHERS.register(BackgroundLauncher.name, BackgroundLauncher())
