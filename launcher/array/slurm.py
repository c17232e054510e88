"""Tasks as a Slurm array: renders the batch script, submits it, and says which tasks are left."""

import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from foretrain.launcher import slurm
from foretrain.launcher.array import folder as folders
from foretrain.launcher.array.active import elements, refuse_active, script
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.task import read
from foretrain.launcher.array.watch import Ended, watch
from foretrain.launcher.launches import Submitted, record_launch
from foretrain.trainer.lock import locked

_DEVICES = "CUDA_VISIBLE_DEVICES | ROCR_VISIBLE_DEVICES | ZE_AFFINITY_MASK | GPU_DEVICE_ORDINAL"
"""What Slurm tells a job of its GPUs."""
_POLL_S = 0.5
_CLEAR_UP_S = 60.0


def render(array: JobArray, part: range | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The batch script of an array, for the tasks whose places in the job array are `part` (by default for all)."""
    part = range(len(array.tasks)) if part is None else part
    job = as_job(array, environ)
    values = {
        "OPTIONS": "\n".join(f"#SBATCH {option}" for option in _options(array, part)),
        "LEAD": str(array.launch.stop_lead_s),
        "DEVICES": f"{_DEVICES} | " if array.on_gpus else "",
        "EXPORTS": slurm.exports(job),
        "FOLDER": shlex.quote(str(array.folder)),
        "PYTHON": shlex.quote(array.python),
        "FIRST": str(part.start),
        "MAX_STARTS": str(job.max_starts),
        "SETUP": slurm.setup_lines(array.launch.setup),
    }
    return slurm.filled("array.sbatch.in", values)


def _options(array: JobArray, part: range) -> list[str]:
    launch = array.launch
    job = as_job(array, {})
    at_once = f"%{array.at_once}" if array.at_once is not None else ""
    return [
        f"--job-name={job.name}",
        f"--array=0-{len(part) - 1}{at_once}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={array.cpus}",
        *([f"--gres=gpu:{array.ranks}"] if array.on_gpus else []),
        *slurm.chosen(launch),
        f"--signal=B:USR2@{launch.stop_lead_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={slurm.quoted(slurm.pattern(job.logs) + '/slurm-%A.log')}",
        f"--chdir={slurm.quoted(job.workdir)}",
        "--export=ALL",
        *launch.slurm.options,
    ]


def parts(num_tasks: int, max_array_size: int) -> list[range]:
    """The places of the tasks in arrays that Slurm takes: an index is less than its MaxArraySize."""
    return [range(first, min(first + max_array_size, num_tasks)) for first in range(0, num_tasks, max_array_size)]


def max_array_size() -> int:
    """Slurm's MaxArraySize. Raises ValueError where Slurm does not tell, or takes no arrays."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", slurm.ask("scontrol", "show", "config"), re.MULTILINE)
    if found is None or int(found[1]) < 2:
        raise ValueError("this Slurm takes no arrays: its slurm.conf must set MaxArraySize to 2 or more")
    return int(found[1])


def submit(array: JobArray) -> Submitted:
    """Write the job array's folder, submit its tasks, and note that. The ids of the arrays are the words of `id`.

    Raises ValueError where tasks of this folder wait or run, and with what Slurm says against it.
    """
    slurm.check()
    with locked(array.folder):
        refuse_active(array.folder, "slurm")
        ranges = parts(len(array.tasks), max_array_size())
        scripts = {script(array.folder, part.start): render(array, part) for part in ranges}
        job = as_job(array, os.environ)
        folders.write(array, job)
        folders.write_private(array.folder / slurm.SECRETS, slurm.secrets(job))
        for path, text in scripts.items():
            path.write_text(text, encoding="utf-8")
        arrays = _submit_all([*scripts], in_turn=array.at_once is not None)
        for array_id in arrays:
            record_launch(array.folder, "slurm", array_id)
    return Submitted(
        title=f"Slurm array {' and '.join(arrays)}",
        id=" ".join(arrays),
        watch=(f"squeue --jobs={','.join(arrays)}", f"tail -F {shlex.quote(str(job.logs))}/*.log"),
        stop=f"scancel {' '.join(arrays)}",
        again=f"sbatch {shlex.quote(str(next(iter(scripts))))}" if len(scripts) == 1 else None,
    )


def _submit_all(scripts: list[Path], in_turn: bool) -> list[str]:
    """Submit scripts, and return their jobs' ids; all or none. in_turn: each begins when the one before has ended."""
    arrays: list[str] = []
    try:
        for path in scripts:
            after = [f"--dependency=afterany:{arrays[-1]}"] if in_turn and arrays else []
            arrays.append(slurm.ask("sbatch", "--parsable", *after, str(path)).strip().partition(";")[0])
    except BaseException:
        if arrays:
            slurm.ask("scancel", *arrays)
        raise
    return arrays


def unfinished(folder: Path) -> frozenset[str]:
    """The names of the tasks of a job array's folder that wait or run. Raises ValueError where Slurm does not tell."""
    tasks = read(folder)
    return frozenset(tasks[element.task].name for element in elements(folder) if element.task < len(tasks))


def follow(folder: Path, every_s: float = 10.0) -> Iterator[Ended]:
    """Yield each task of a job array's folder as it ends, and return once Slurm knows none of them any more.

    Slurm is asked every `every_s` seconds. The array continues even if nobody follows it.
    """
    yield from watch(folder, [task.name for task in read(folder)], lambda: unfinished(folder), every_s)
    # Slurm clears up after tasks that have told of their end; until then they would be refused anew.
    deadline_s = time.monotonic() + _CLEAR_UP_S
    while elements(folder) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


def cancel(folder: Path, wait_s: float = 60.0) -> None:
    """End all tasks of a job array's folder, and wait for that. Raises ValueError where some are left after wait_s."""
    deadline_s = time.monotonic() + wait_s
    while left := elements(folder):
        if time.monotonic() > deadline_s:
            raise ValueError(f"slurm job {left[0].array} does not end: see squeue --jobs={left[0].array}")
        slurm.ask("scancel", *sorted({element.array for element in left}))
        time.sleep(_POLL_S)
