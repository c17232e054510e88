"""From a config to a run that is started: the plan, the run's folder, and the submission."""

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from foretrain.configs import load as configs
from foretrain.configs.launching import LaunchConfig
from foretrain.configs.schema import Config
from foretrain.launcher import slurm
from foretrain.launcher.job import Job, make_job
from foretrain.launcher.launches import Submitted, launches, record_launch
from foretrain.launcher.local import script as local
from foretrain.launcher.ray import submission as ray
from foretrain.launcher.snapshot import snapshot
from foretrain.parallel.layout import Layout
from foretrain.trainer.environment import record
from foretrain.trainer.lock import locked
from foretrain.trainer.run_folder import CONFIG_FILE

On = Literal["local", "slurm", "ray"]


@dataclass(frozen=True)
class Plan:
    """All that a launch would do, known before it does anything."""

    on: On
    launch: LaunchConfig
    job: Job
    script: str
    """The name of the file in the run's folder that is submitted."""
    text: str
    """And what it holds."""
    shown: str
    """The same, without secrets."""

    @property
    def in_foreground(self) -> bool:
        """Whether the run lives no longer than the command that launches it."""
        return self.on == "local" or (self.on == "ray" and self.launch.ray.address is None)


def make_plan(config: Config, on: On, *, allow_data_change: bool = False) -> Plan:
    """Plan to start `config` from the working directory, in this process's environment. Changes nothing.

    Raises ValueError where the layout does not fit the nodes.
    """
    options = ["--allow-data-change"] if allow_data_change else []
    launch = config.launch
    if on == "local":
        num_ranks = Layout.from_config(config.parallel).world_size
        config = replace(config, cluster=replace(config.cluster, num_nodes=1, gpus_per_node=num_ranks))
    job = make_job(config, workdir=Path.cwd(), environ=os.environ, train_options=options)
    if on == "local":
        text = local.render(job, launch)
        return Plan(on, launch, job, local.SCRIPT, text, text)
    if on == "slurm":
        text = slurm.render(job, launch)
        return Plan(on, launch, job, slurm.SCRIPT, text, text)
    if launch.ray.address is None and job.num_nodes > 1:
        raise ValueError(
            f"a Ray cluster that is started here has one node, and the run needs {job.num_nodes}: name a cluster by "
            "launch.ray.address, or set --nodes 1 and --gpus-per-node to the number of ranks"
        )
    text, shown = (
        ray.render(each, _ray_id(job), launch.ray.wait_s, launch.stop_lead_s) for each in (job, job.without_secrets())
    )
    return Plan(on, launch, job, ray.SCRIPT, text, shown)


def _ray_id(job: Job) -> str:
    """A new name each time that the run is launched: Ray takes no name twice."""
    return f"{job.name}-{sum(launch.on == 'ray' for launch in launches(job.folder)) + 1}"


def check(plan: Plan, *, dry_run: bool = False) -> None:
    """Raise ValueError where the run's folder cannot be written, or the plan's cluster not be reached from here, or
    where the run waits or runs already. A dry run asks no cluster."""
    _check_writable(plan.job.folder)
    if dry_run:
        return
    if plan.on == "slurm":
        slurm.check()
    if plan.on == "ray":
        ray.check()
    active = _active_jobs(plan)
    if active:
        raise ValueError(
            f"{plan.job.run_dir} was launched as {' and '.join(active)}, which still waits or runs: wait for it, stop "
            "it, or set another run_dir"
        )


def _active_jobs(plan: Plan) -> list[str]:
    """The jobs of this run that wait or run. Raises ValueError where the cluster to launch on does not tell."""
    earlier = launches(plan.job.folder)
    on_ray = [(launch.id, launch.address) for launch in earlier if launch.on == "ray"][-1:]
    active = []
    if any(launch.on == "slurm" for launch in earlier):
        with _may_be_silent(plan.on != "slurm"):
            active += [f"slurm job {job_id}" for job_id in slurm.active_jobs(plan.job)]
    for job_id, address in on_ray:
        with _may_be_silent(plan.on != "ray" or address != plan.launch.ray.address):
            if address is not None and ray.is_active(address, job_id):
                active.append(f"ray job {job_id}")
    return active


def _may_be_silent(is_other: bool) -> AbstractContextManager[None]:
    """Forgive a cluster that does not answer if it is another than the one to launch on: the folder's lock is left."""
    return suppress(ValueError) if is_other else nullcontext()


def _check_writable(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written: set another run_dir, or mend its permissions")


def write(plan: Plan, config: Config) -> None:
    """Make the run's folder: `config` in full, the code, what it was launched from, and the script.

    Raises ValueError where another process uses the folder.
    """
    job = plan.job
    with locked(job.folder):
        job.logs.mkdir(exist_ok=True)
        configs.save(config, job.folder / CONFIG_FILE)
        record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, job.folder)
        _write(job.folder / plan.script, plan.text, private=plan.text != plan.shown)
        if plan.on == "slurm":
            _write(job.folder / slurm.SECRETS, slurm.secrets(job), private=True)


def _write(path: Path, text: str, *, private: bool) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600 if private else 0o666)
    path.write_text(text, encoding="utf-8")


def submit(plan: Plan) -> Submitted:
    """Give the script in the run's folder to the cluster, and note that."""
    launch = plan.launch
    if plan.on == "slurm":
        submitted = slurm.submit(plan.job)
        record_launch(plan.job.folder, "slurm", submitted.id)
        return submitted
    address = launch.ray.address
    assert plan.on == "ray" and address is not None
    job_id = ray.submit(plan.job, plan.text, address)
    record_launch(plan.job.folder, "ray", job_id, address)
    watch = tuple(ray.watch_commands(job_id, address))
    return Submitted(f"Ray job {job_id}", job_id, watch, ray.stop_command(job_id, address))


def run_here(plan: Plan) -> int:
    """Run the script of a local plan, or of a Ray plan on a cluster of its own, and return its exit status."""
    if plan.on == "local":
        record_launch(plan.job.folder, "local", str(os.getpid()))
        local.become(plan.job)
    from foretrain.launcher.ray.foreground import run_on_own_cluster

    record_launch(plan.job.folder, "ray", _ray_id(plan.job))
    return run_on_own_cluster(plan.job, plan.text)
