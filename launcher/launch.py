"""From a config to a run that can be submitted: the plan, its checks, and the run's folder."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.launching import LaunchConfig
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.launcher.active import refuse_active
from foretrain.launcher.elastic import elastic_sizes
from foretrain.launcher.job import Job, make_job
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.private import write_private
from foretrain.launcher.protocol import Launcher, Script
from foretrain.launcher.snapshot import snapshot
from foretrain.parallel.layout import Layout
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.run.environment import record
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.run.lock import locked


@dataclass(frozen=True)
class LaunchPlan:
    """All that a launch would do, known before it does anything."""

    launcher: Launcher
    launch: LaunchConfig
    job: Job
    script: Script


def make_plan(config: Config, on: str, *, allow_data_change: bool = False) -> LaunchPlan:
    """The plan to start `config` with the launcher named `on`, from the working directory and this environment.

    Changes nothing. Raises ValueError if there is no such launcher, or the layout does not fit the nodes.
    """
    launcher, sizes = LAUNCHERS.get(on), elastic_sizes(config)
    if sizes is not None and not getattr(launcher, "is_elastic", False):
        raise ValueError(f"launch.elastic: the launcher '{on}' cannot change the size of a run: leave it out")
    if launcher.uses_one_machine:
        num_ranks = Layout.from_config(config.parallel).world_size if sizes is None else sizes.max_ranks
        config = replace(config, cluster=replace(config.cluster, num_nodes=1, gpus_per_node=num_ranks))
    elif sizes is not None:
        num_nodes = sizes.nodes(config.cluster.gpus_per_node)[-1]
        config = replace(config, cluster=replace(config.cluster, num_nodes=num_nodes))
    options = ["--allow-data-change"] if allow_data_change else []
    if not launcher.uses_one_machine and config.train.device == "auto":
        options.append("train.device=cuda")  # a rank on a node whose GPUs are gone must fail, and not train on the CPU
    job = make_job(config, workdir=Path.cwd(), environ=os.environ, train_options=options)
    return LaunchPlan(launcher, config.launch, job, launcher.render(job, config.launch))


def check(plan: LaunchPlan, *, dry_run: bool = False) -> None:
    """Raise ValueError if the run's folder cannot be written, the cluster cannot be reached, or the run is active.

    A dry run asks no cluster.
    """
    _check_writable(plan.job.folder)
    if not dry_run:
        plan.launcher.check(plan.launch)
        refuse_active(plan.job.folder, plan.launcher, plan.launch)


def _check_writable(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written: set another run_dir, or change its permissions")


def write(plan: LaunchPlan, config: Config) -> None:
    """Make the run's folder: `config` in full, the code, what it was launched from, and the script.

    Raises ValueError if another process uses the folder.
    """
    job, script = plan.job, plan.script
    with locked(job.folder):
        job.logs.mkdir(exist_ok=True)
        configs.save(config, job.folder / CONFIG_FILE)
        record({"code_sha256": snapshot(job.code), "env": dict(job.without_secrets().env)}, job.folder)
        path = job.folder / script.name
        if script.shown is None:
            write_atomically(path, script.text)
        else:
            write_private(path, script.text)
        for name, text in script.private_files.items():
            write_private(job.folder / name, text)
        facts.append(job.folder, Fact("launch", round(time.time(), 3)))
