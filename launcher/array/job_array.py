"""A job array as plain data: independent commands to start, the same for every launcher."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.task import Task
from foretrain.launcher.job import Job, environment, rank_environment
from foretrain.trainer.run.folder import CODE


@dataclass(frozen=True)
class JobArray:
    """Independent tasks, on nodes that see the same files at the same paths."""

    name: str
    """The name that the cluster shows."""
    folder: Path
    """The folder for scripts, logs, and how each task ended. Absolute; no other array may use it."""
    tasks: tuple[Task, ...]
    launch: LaunchConfig
    ranks: int = 1
    """Processes of a task, all on one node; the task gets launch.cpus_per_rank CPUs for each."""
    on_gpus: bool = False
    """Whether a task also gets one GPU for each of its processes."""
    at_once: int | None = None
    """Limit on the tasks that run at the same time; None: as many as there is room for."""
    workdir: Path = field(default_factory=Path.cwd)
    """The working directory of the tasks. Absolute."""
    python_path: tuple[str, ...] = ()
    """Further folders of modules, such as plugins."""
    python: str = sys.executable
    """The interpreter that supervises the tasks. Absolute."""

    def __post_init__(self) -> None:
        """Raise ValueError for an array that no launcher could start."""
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise ValueError(f"tasks need different names: {', '.join(twice)} names several" if names else "no tasks")
        if self.ranks < 1 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(f"ranks = {self.ranks} and at_once = {self.at_once} must be 1 or more")
        if not self.folder.is_absolute() or not self.workdir.is_absolute():
            raise ValueError(f"{self.folder} and {self.workdir} must be absolute: nodes have other working directories")

    @property
    def cpus(self) -> int:
        """CPUs of a task."""
        return self.ranks * self.launch.cpus_per_rank


def as_job(array: JobArray, environ: Mapping[str, str]) -> Job:
    """The job of one task, as if it were a run on one node: its CPUs and GPUs, and its environment out of `environ`."""
    return Job(
        name=re.sub(r"[^\w.-]+", "-", array.name) or "foretrain",
        run_dir=str(array.folder),
        workdir=str(array.workdir),
        python=array.python,
        num_nodes=1,
        ranks_per_node=array.ranks,
        cpus_per_rank=array.launch.cpus_per_rank,
        gpus_per_node=array.ranks if array.on_gpus else 0,
        env=rank_environment(array.folder / CODE, array.launch, environ, array.python_path),
        max_starts=array.launch.max_starts,
        set_env=tuple(sorted(environment(array.launch.env, {})[1])),
    )
