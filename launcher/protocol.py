"""The protocol of a launcher, and the plain data that it takes and returns.

`foretrain.launcher.launchers` has the launchers by name; docs/extending.md shows how to add one.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.watch import Ended
from foretrain.launcher.job import Job


@dataclass(frozen=True)
class Script:
    """The file in a run's folder that a launcher submits."""

    name: str
    text: str
    shown: str | None = None
    """The text without its secrets. If it is set, only the owner can read the file, and this is printed instead."""
    private_files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the run's folder, by name, that only the owner can read."""

    @property
    def printable(self) -> str:
        """The text without secrets."""
        return self.text if self.shown is None else self.shown


@dataclass(frozen=True)
class ActiveJob:
    """A job of a run, or of a job array, that waits or runs."""

    launcher: str
    id: str
    """The name that the cluster gave it."""
    state: Literal["waiting", "running"]

    @property
    def title(self) -> str:
        """The job in words, as in "slurm job 12"."""
        return f"{self.launcher} job {self.id}"


@dataclass(frozen=True)
class Submitted:
    """A job that a cluster has accepted."""

    title: str
    """The job in words, as in "Slurm job 123"."""
    id: str
    """The name that the cluster gave it."""
    watch: tuple[str, ...]
    """Commands that show how it is doing."""
    stop: str
    """The command that ends it."""
    again: str | None = None
    """The command that submits the same once more."""

    def lines(self) -> list[str]:
        """The lines that the user sees."""
        named = [*(("watch", command) for command in self.watch), ("stop", self.stop)]
        named += [("again", self.again)] if self.again else []
        return [f"{self.title} is submitted", *(f"  {name:6} {command}" for name, command in named)]


class ArrayRunner(Protocol):
    """Runs the tasks of job arrays."""

    outlives_command: bool
    """Whether tasks continue after the command that started them has ended, and a later command can follow them."""

    def run(self, array: JobArray) -> AbstractContextManager[Iterator[Ended]]:
        """Start the tasks of an array, whose folder is written, and give an iterator over their ends.

        Unless they outlive the command, no task runs any more when the context ends. Raises ValueError if the cluster
        refuses them.
        """
        ...

    def follow(self, folder: Path) -> Iterator[Ended]:
        """Yield the ends of tasks that an earlier command started in `folder`, if they outlive commands."""
        ...


class Launcher(Protocol):
    """Starts runs somewhere, and looks after them.

    Methods that take a folder take that of a run or of a job array. They raise ValueError if the cluster does not
    answer, or refuses.
    """

    name: str
    """The name in the registry: the value of --on."""
    uses_one_machine: bool
    """Whether all ranks run on one machine: their number is that of the layout, and `cluster` is not read."""
    arrays: ArrayRunner | None
    """Runs job arrays, such as the trials of a sweep; None: this launcher starts single runs only."""

    def in_foreground(self, launch: LaunchConfig) -> bool:
        """Whether the run lives no longer than the command that launches it."""
        ...

    def render(self, job: Job, launch: LaunchConfig) -> Script:
        """The script of a job. Changes nothing. Raises ValueError if this launcher cannot run such a job."""
        ...

    def check(self, launch: LaunchConfig) -> None:
        """Raise ValueError if nothing can be submitted from here."""
        ...

    def active(self, folder: Path, launch: LaunchConfig) -> list[ActiveJob]:
        """The jobs of a folder that wait or run, whoever submitted them."""
        ...

    def submit(self, job: Job, script: Script, launch: LaunchConfig) -> Submitted | int:
        """Start the script in the run's folder, and record the launch there (`launches.record_launch`).

        Returns the job that the cluster has accepted; in the foreground, the exit status of the run that has ended.
        """
        ...

    def stop(self, folder: Path) -> list[ActiveJob]:
        """Have the active jobs of a folder write a checkpoint and end. Returns them, and does not wait for the end."""
        ...

    def logs(self, folder: Path) -> list[Path]:
        """The files into which the jobs and the ranks of a folder print."""
        ...
