"""Trials on a cluster, in a Slurm array or on Ray: each is `python -m foretrain.scaling.sweep.trial FOLDER`."""

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.launcher.array import ray, slurm
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.task import TASKS_FILE, Task
from foretrain.launcher.array.watch import Ended as TaskEnded
from foretrain.scaling.sweep.record import conclude, recorded, trial_config
from foretrain.scaling.sweep.runner import Ended

BATCH = "batch"
"""In a sweep's folder: scripts, logs, and how each command ended."""
EVERY_S = 2.0
TAIL_LINES = 15


class Cluster:
    """Runs trials as tasks of a array. Ctrl-C ends them on Ray, and leaves them on Slurm: the next run joins them."""

    goes_on = False

    def __init__(self, out: Path, config: Config, *, ranks: int, at_once: int | None) -> None:
        """`config` says how it launches; `ranks` is that of a trial."""
        self._out = out.absolute()
        self._config = config
        self._ranks = ranks
        self._at_once = at_once
        self.stopped_by: int | None = None

    def run(self, folders: Sequence[Path]) -> Iterator[Ended]:
        """Run the trials in these folders, and yield each when it ends."""
        waiting = {}
        for folder in folders:
            if recorded(folder) or conclude(folder, trial_config(folder)):
                yield Ended(folder)
            else:
                waiting[folder.name] = folder
        try:
            for task in self._tasks_ended(waiting):
                if task.name in waiting:  # else it is one of an earlier sweep
                    yield Ended(waiting.pop(task.name), None if task.status == 0 else _told(task))
        except KeyboardInterrupt:
            self.stopped_by = signal.SIGINT

    def _tasks_ended(self, waiting: dict[str, Path]) -> Iterator[TaskEnded]:
        raise NotImplementedError

    def _batch(self, waiting: dict[str, Path]) -> JobArray:
        tasks = (
            Task(name, (sys.executable, "-m", "foretrain.scaling.sweep.trial", str(folder.absolute())))
            for name, folder in waiting.items()
        )
        return JobArray(
            name=f"sweep-{self._out.name}",
            folder=self._out / BATCH,
            tasks=tuple(tasks),
            launch=self._config.launch,
            ranks=self._ranks,
            on_gpus=self._config.train.device != "cpu",
            at_once=self._at_once,
        )


class OnSlurm(Cluster):
    """As Slurm arrays."""

    goes_on = True

    def _tasks_ended(self, waiting: dict[str, Path]) -> Iterator[TaskEnded]:
        folder = self._out / BATCH
        if (folder / TASKS_FILE).exists() and slurm.unfinished(folder):
            yield from slurm.follow(folder, EVERY_S)  # an earlier sweep was left, and its tasks go on
        if waiting:
            for line in slurm.submit(self._batch(waiting)).lines():
                print(line, file=sys.stderr)
            yield from slurm.follow(folder, EVERY_S)


class OnRay(Cluster):
    """As tasks on a Ray cluster, or on one of this machine."""

    def _tasks_ended(self, waiting: dict[str, Path]) -> Iterator[TaskEnded]:
        if waiting:
            with ray.running(self._batch(waiting)) as ends:
                yield from ends


def _told(task: TaskEnded) -> str:
    """How a task ended, and the last lines that it printed."""
    how = "was cancelled, or is gone" if task.status is None else f"ended with status {task.status}"
    said = task.log.read_text(encoding="utf-8", errors="replace").splitlines() if task.log.exists() else []
    return "\n".join([how, f"The last lines of {task.log}:", *said[-TAIL_LINES:]])
