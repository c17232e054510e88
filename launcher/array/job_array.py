"""Independent commands that are to be started, as plain data: the same for every launcher."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.task import Task
from foretrain.launcher.job import Job, environment, rank_variables
from foretrain.trainer.run_folder import CODE


@dataclass(frozen=True)
class JobArray:
    """Tasks that know nothing of each other, on nodes that see the same files at the same paths."""

    name: str
    """What the cluster shows."""
    folder: Path
    """For scripts, logs, and how each task ended; absolute, and of this job array alone."""
    tasks: tuple[Task, ...]
    launch: LaunchConfig
    ranks: int = 1
    """Processes of a task, all on one node: it gets launch.cpus_per_rank CPUs for each."""
    on_gpus: bool = False
    """Whether it gets a GPU for each of them, too."""
    at_once: int | None = None
    """Tasks that run at the same time; None: as many as there is room for."""
    workdir: Path = field(default_factory=Path.cwd)
    """Where the tasks start. Absolute."""
    python: str = sys.executable
    """The interpreter of what looks after the tasks, absolute."""

    def __post_init__(self) -> None:
        """Raise ValueError where no launcher could start these."""
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise ValueError(
                f"tasks need names of their own: {', '.join(twice)} stand for several" if names else "no tasks"
            )
        if self.ranks < 1 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(f"ranks = {self.ranks} and at_once = {self.at_once} must be 1 or more")
        if not self.folder.is_absolute() or not self.workdir.is_absolute():
            raise ValueError(f"{self.folder} and {self.workdir} must be absolute: nodes have other working directories")

    @property
    def cpus(self) -> int:
        """CPUs of a task."""
        return self.ranks * self.launch.cpus_per_rank


def as_job(array: JobArray, environ: Mapping[str, str]) -> Job:
    """What each task gets, as a run of one node would: its CPUs and GPUs, and the environment out of `environ`."""
    carried, settings = environment(array.launch.env, environ)
    return Job(
        name=re.sub(r"[^\w.-]+", "-", array.name) or "foretrain",
        run_dir=str(array.folder),
        workdir=str(array.workdir),
        python=array.python,
        num_nodes=1,
        ranks_per_node=array.ranks,
        cpus_per_rank=array.launch.cpus_per_rank,
        gpus_per_node=array.ranks if array.on_gpus else 0,
        env=tuple(sorted({**carried, **rank_variables(array.folder / CODE, array.launch), **settings}.items())),
        max_starts=array.launch.max_starts,
    )
