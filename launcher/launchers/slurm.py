"""The launcher "slurm": a run as a Slurm job."""

import shlex
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.slurm import SlurmArrays
from foretrain.launcher.job import Job
from foretrain.launcher.launches import record_submitted
from foretrain.launcher.logs import log_files, log_path
from foretrain.launcher.protocol import ActiveJob, ArrayRunner, Script, Submitted
from foretrain.launcher.slurm import commands, script


class SlurmLauncher:
    """Submits the batch script of a run."""

    name = "slurm"
    uses_one_machine = False
    is_elastic = True
    arrays: ArrayRunner | None = SlurmArrays()

    def in_foreground(self, launch: LaunchConfig) -> bool:
        """Never: the job is Slurm's."""
        return False

    def render(self, job: Job, launch: LaunchConfig) -> Script:
        """The batch script, which reads the secrets of the environment from a file of their own."""
        return Script(script.SCRIPT, script.render(job, launch), private_files={script.SECRETS: script.secrets(job)})

    def check(self, launch: LaunchConfig) -> None:
        """Raise ValueError if there is no sbatch."""
        commands.check()

    def active(self, folder: Path, launch: LaunchConfig) -> list[ActiveJob]:
        """My jobs and arrays whose script is in the folder. Raises ValueError if Slurm does not answer."""
        found = {}
        for line in commands.ask("squeue", "--me", "--noheader", "--format=%F %T %o").splitlines():
            job_id, state, command = (*line.strip().split(" ", 2), "", "")[:3]
            if Path(command).parent == folder:
                found[job_id] = ActiveJob(self.name, job_id, "waiting" if state == "PENDING" else "running")
        return [*found.values()]

    def submit(self, job: Job, script: Script, launch: LaunchConfig) -> Submitted:
        """Submit the script. Raises ValueError with what sbatch says against it."""
        path = job.folder / script.name
        job_id = commands.ask("sbatch", "--parsable", str(path)).strip().partition(";")[0]
        record_submitted(job.folder, self.name, job_id)
        return Submitted(
            title=f"Slurm job {job_id}",
            id=job_id,
            watch=(f"squeue --jobs={job_id}", f"tail -F {shlex.quote(str(log_path(job.logs, 0)))}"),
            stop=f"scancel {job_id}",
            again=f"sbatch {shlex.quote(str(path))}",
        )

    def stop(self, folder: Path) -> list[ActiveJob]:
        """Cancel the jobs: the ranks get SIGTERM, and have Slurm's KillWait (30 s by default) to write a checkpoint."""
        active = self.active(folder, LaunchConfig())
        if active:
            commands.ask("scancel", *(job.id for job in active))
        return active

    def logs(self, folder: Path) -> list[Path]:
        """slurm-ID.log, which says how each start ended, and the logs of the ranks."""
        return log_files(folder)
