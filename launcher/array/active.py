"""Which tasks of a folder wait or run on a cluster already: they are not to be started twice."""

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foretrain.launcher import slurm
from foretrain.launcher.launches import launches
from foretrain.launcher.ray import submission as ray

_SCRIPT = re.compile(r"array-(\d+)\.sbatch")


@dataclass(frozen=True)
class Element:
    """One task of a Slurm array that waits or runs."""

    array: str
    """The id of the array's job."""
    task: int
    """The task's place in the array."""


def script(folder: Path, first: int) -> Path:
    """The batch script of the array whose first task has the place `first` in the array."""
    return folder / f"array-{first}.sbatch"


def elements(folder: Path) -> list[Element]:
    """My array tasks that wait or run with the scripts of this folder, whoever submitted them, and how.

    Raises ValueError where Slurm does not tell.
    """
    lines = slurm.ask("squeue", "--me", "--array", "--noheader", "--format=%F %K %o").splitlines()
    found = []
    for array, index, command in (line.strip().split(" ", 2) for line in lines if line.count(" ") > 1):
        path = Path(command)
        named = _SCRIPT.fullmatch(path.name)
        if named is not None and path.parent == folder and index.isdecimal():
            found.append(Element(array, int(named[1]) + int(index)))
    return found


def refuse_active(folder: Path, on: Literal["slurm", "ray"]) -> None:
    """Raise ValueError where tasks of the folder wait or run, or where the cluster to start on does not tell."""
    earlier = launches(folder)
    active = []
    if any(launch.on == "slurm" for launch in earlier):
        with suppress(*_forgiven(on != "slurm")):
            arrays = sorted({element.array for element in elements(folder)})
            active += [f"slurm job {array}" for array in arrays]
    for launch in [launch for launch in earlier if launch.on == "ray" and launch.address is not None][-1:]:
        assert launch.address is not None
        with suppress(*_forgiven(on != "ray")):
            active += [f"ray job {launch.id}"] if ray.is_active(launch.address, launch.id) else []
    if active:
        raise ValueError(
            f"the tasks in {folder} were started as {' and '.join(active)}, which still waits or runs: wait for it, or "
            "stop it"
        )


def _forgiven(is_other: bool) -> Collection[type[Exception]]:
    """A cluster that does not answer is no hindrance where the tasks go to another."""
    return (ValueError,) if is_other else ()
