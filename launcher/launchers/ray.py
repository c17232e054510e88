"""The launcher "ray": a run as a Ray job, on a cluster of the user or on one of this machine for the run alone."""

from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.ray import RayArrays
from foretrain.launcher.job import Job
from foretrain.launcher.launches import launches, record_submitted
from foretrain.launcher.logs import log_files
from foretrain.launcher.protocol import ActiveJob, ArrayRunner, Script, Submitted
from foretrain.launcher.ray import submission
from foretrain.trainer.run.folder import LOGS


class RayLauncher:
    """Gives a job to the cluster at launch.ray.address, or to one that it starts."""

    name = "ray"
    uses_one_machine = False
    is_elastic = True
    arrays: ArrayRunner | None = RayArrays()

    def in_foreground(self, launch: LaunchConfig) -> bool:
        """Whether the cluster is started for the run, and ends with it."""
        return launch.ray.address is None

    def render(self, job: Job, launch: LaunchConfig) -> Script:
        """The arguments of the submission and what the driver reads, as JSON."""
        if launch.ray.address is None and job.num_nodes > 1:
            raise ValueError(
                f"a Ray cluster that is started here has one node, and the run needs {job.num_nodes}: name a cluster "
                "by launch.ray.address, or set --nodes 1 and --gpus-per-node to the number of ranks"
            )
        number = sum(launched.on == self.name for launched in launches(job.folder)) + 1
        text, shown = (
            submission.render(
                each, f"{job.name}-{number}", launch.ray.wait_s, launch.stop_lead_s
            )  # Ray takes no id twice
            for each in (job, job.without_secrets())
        )
        return Script(submission.SCRIPT, text, shown if shown != text else None)

    def check(self, launch: LaunchConfig) -> None:
        """Raise ValueError if Ray is not installed."""
        submission.check()

    def active(self, folder: Path, launch: LaunchConfig) -> list[ActiveJob]:
        """The newest job of the folder, if it waits or runs.

        Raises ValueError if its cluster does not answer, and is the one that `launch` names.
        """
        try:
            return [job for job, _ in self._active(folder)]
        except ValueError:
            if self._newest(folder)[1] == launch.ray.address:
                raise
            return []

    def _newest(self, folder: Path) -> tuple[str, str | None]:
        """The id of the newest job of a folder, and the address of its cluster."""
        found = [launched for launched in launches(folder) if launched.on == self.name]
        return (found[-1].id, found[-1].address) if found else ("", None)

    def _active(self, folder: Path) -> list[tuple[ActiveJob, str]]:
        """The newest job of the folder, if it waits or runs, and the address of its cluster."""
        job_id, address = self._newest(folder)
        status = submission.status(address, job_id) if address is not None else None
        if address is None or status not in submission.ACTIVE:
            return []
        return [(ActiveJob(self.name, job_id, "waiting" if status == "PENDING" else "running"), address)]

    def submit(self, job: Job, script: Script, launch: LaunchConfig) -> Submitted | int:
        """Give the job to the cluster; without an address, run it here to its end."""
        address = launch.ray.address
        if address is None:
            from foretrain.launcher.ray.foreground import run_on_own_cluster

            return run_on_own_cluster(job, script.text)
        job_id = submission.submit(job, script.text, address)
        record_submitted(job.folder, self.name, job_id, address)
        watch = [submission.command(address, *words, job_id) for words in (("logs", "--follow"), ("status",))]
        return Submitted(f"Ray job {job_id}", job_id, tuple(watch), submission.command(address, "stop", job_id))

    def stop(self, folder: Path) -> list[ActiveJob]:
        """Ask Ray to stop the job: its ranks have launch.stop_lead_s to write a checkpoint."""
        active = self._active(folder)
        for job, address in active:
            submission.stop(address, job.id)
        return [job for job, _ in active]

    def logs(self, folder: Path) -> list[Path]:
        """ray-ID.log, a copy of what Ray keeps of the newest job's driver, and the logs of the ranks."""
        job_id, address = self._newest(folder)
        if address is not None:
            submission.keep_log(address, job_id, folder / LOGS)
        return log_files(folder)
