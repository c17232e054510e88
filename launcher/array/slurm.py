"""Job arrays on Slurm: the batch script, its submission, and which tasks are left."""

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from foretrain.files import write_atomically
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.task import TASKS_FILE, read
from foretrain.launcher.array.watch import Ended, watch
from foretrain.launcher.launches import record_submitted
from foretrain.launcher.private import write_private
from foretrain.launcher.slurm import script as slurm
from foretrain.launcher.slurm.commands import ask

_DEVICES = "CUDA_VISIBLE_DEVICES | ROCR_VISIBLE_DEVICES | ZE_AFFINITY_MASK | GPU_DEVICE_ORDINAL"
"""The variables in which Slurm gives a job the numbers of its GPUs."""
_EVERY_S = 2.0
"""Seconds between two questions to Slurm."""
_POLL_S = 0.5
_CLEAR_UP_S = 60.0


def render(array: JobArray, part: range | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The batch script of an array, for the tasks whose places in the job array are `part` (by default for all)."""
    part = range(len(array.tasks)) if part is None else part
    at_once = f"%{array.at_once}" if array.at_once is not None else ""
    size = [
        f"--array=0-{len(part) - 1}{at_once}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={array.cpus}",
        *([f"--gres=gpu:{array.ranks}"] if array.on_gpus else []),
    ]
    values = {"DEVICES": f"{_DEVICES} | " if array.on_gpus else "", "FIRST": str(part.start)}
    return slurm.filled("array.sbatch.in", as_job(array, environ), array.launch, size, "slurm-%A.log", values)


def parts(num_tasks: int, max_array_size: int) -> list[range]:
    """The places of the tasks in arrays that Slurm accepts: an index is less than its MaxArraySize."""
    return [range(first, min(first + max_array_size, num_tasks)) for first in range(0, num_tasks, max_array_size)]


def max_array_size() -> int:
    """Slurm's MaxArraySize. Raises ValueError if Slurm does not answer, or accepts no arrays."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    if found is None or int(found[1]) < 2:
        raise ValueError("this Slurm accepts no arrays: its slurm.conf must set MaxArraySize to 2 or more")
    return int(found[1])


def submit(array: JobArray) -> list[str]:
    """Submit the tasks of an array, whose folder is written, and record that. Returns the ids of the Slurm arrays.

    Raises ValueError with what Slurm says against it.
    """
    ranges = parts(len(array.tasks), max_array_size())
    scripts = {script_path(array.folder, part.start): render(array, part) for part in ranges}
    write_private(array.folder / slurm.SECRETS, slurm.secrets(as_job(array, os.environ)))
    for path, text in scripts.items():
        write_atomically(path, text)
    arrays = _submit_all([*scripts], in_turn=array.at_once is not None)
    for array_id in arrays:
        record_submitted(array.folder, "slurm", array_id)
    return arrays


def _instructions(array: JobArray, arrays: list[str]) -> str:
    logs = shlex.quote(str(as_job(array, {}).logs))
    return (
        f"Slurm array {' and '.join(arrays)} is submitted\n"
        f"  watch  squeue --jobs={','.join(arrays)}\n"
        f"  watch  tail -F {logs}/*.log\n"
        f"  stop   scancel {' '.join(arrays)}"
    )


def _submit_all(scripts: list[Path], in_turn: bool) -> list[str]:
    """Submit all scripts or none, and return the ids of their jobs. in_turn: each starts after the one before it."""
    arrays: list[str] = []
    try:
        for path in scripts:
            after = [f"--dependency=afterany:{arrays[-1]}"] if in_turn and arrays else []
            arrays.append(ask("sbatch", "--parsable", *after, str(path)).strip().partition(";")[0])
    except BaseException:
        if arrays:
            ask("scancel", *arrays)
        raise
    return arrays


_SCRIPT = re.compile(r"array-(\d+)\.sbatch")


def script_path(folder: Path, first: int) -> Path:
    """The batch script of the array whose first task has the place `first` in the array."""
    return folder / f"array-{first}.sbatch"


def active(folder: Path) -> list[int]:
    """The places of my tasks that wait or run with the scripts of this folder, whoever submitted them, and how.

    Raises ValueError if Slurm does not answer.
    """
    lines = ask("squeue", "--me", "--array", "--noheader", "--format=%K %o").splitlines()
    found = []
    for index, _, command in (line.strip().partition(" ") for line in lines):
        path = Path(command)
        named = _SCRIPT.fullmatch(path.name)
        if named is not None and path.parent == folder and index.isdecimal():
            found.append(int(named[1]) + int(index))
    return found


def unfinished(folder: Path) -> frozenset[str]:
    """The names of the tasks of a job array's folder that wait or run. Raises ValueError if Slurm does not answer."""
    tasks = read(folder)
    return frozenset(tasks[place].name for place in active(folder) if place < len(tasks))


def follow(folder: Path, every_s: float = 10.0) -> Iterator[Ended]:
    """Yield each task of a job array's folder as it ends, and return once Slurm knows none of them any more.

    Slurm is asked every `every_s` seconds. The array continues even if nobody follows it.
    """
    yield from watch(folder, [task.name for task in read(folder)], lambda: unfinished(folder), every_s)
    # Slurm still cleans up after tasks that have written their end; until then a new launch would be refused.
    deadline_s = time.monotonic() + _CLEAR_UP_S
    while active(folder) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


class SlurmArrays:
    """Runs job arrays on Slurm. Their tasks outlive the command that starts them."""

    outlives_command = True

    @contextmanager
    def run(self, array: JobArray) -> Iterator[Iterator[Ended]]:
        """Submit the tasks, print how to watch and stop them, and give an iterator over their ends."""
        print(_instructions(array, submit(array)), file=sys.stderr)
        yield follow(array.folder, _EVERY_S)

    def follow(self, folder: Path) -> Iterator[Ended]:
        """Yield the ends of the tasks that an earlier command left waiting or running in the folder."""
        if (folder / TASKS_FILE).exists() and unfinished(folder):
            yield from follow(folder, _EVERY_S)
