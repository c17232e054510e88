"""Runs trials on a cluster, as a job array.

Each is `python -m foretrain.scaling.trials.run FOLDER`.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.run import running
from foretrain.launcher.array.task import Task
from foretrain.launcher.array.watch import Ended as TaskEnded
from foretrain.launcher.job import plugin_path
from foretrain.launcher.logs import last_lines
from foretrain.launcher.protocol import ArrayRunner, Launcher
from foretrain.scaling.trials.runner import TAIL_LINES, TrialEnd, split_ended

BATCH = "batch"
"""Name of the folder, in that of the study, with scripts, logs, and how each command ended."""


class ClusterRunner:
    """Runs trials as tasks of a job array. Ctrl-C ends them, or if they outlive the command, the next run joins."""

    def __init__(
        self,
        out: Path,
        config: Config,
        launcher: Launcher,
        arrays: ArrayRunner,
        *,
        name: str,
        ranks: int,
        at_once: int | None,
    ) -> None:
        """`config` holds the settings of the launch; `arrays` are the launcher's; each trial has `ranks` ranks.

        `name` is that of the job array.
        """
        self.outlives_stop = arrays.outlives_command
        self._launcher, self._arrays = launcher, arrays
        self._out = out.absolute()
        self._config = config
        self._name = name
        self._ranks = ranks
        self._at_once = at_once
        self.stopped_by: int | None = None

    def run(self, folders: Sequence[Path]) -> Iterator[TrialEnd]:
        """Run the trials in these folders, and yield each when it ends."""
        ended, configs = split_ended(folders)
        yield from ended
        waiting = {folder.name: folder for folder in configs}
        try:
            for task in self._ended_tasks(waiting):
                if task.name in waiting:  # else it belongs to an earlier study in the folder
                    yield TrialEnd(waiting.pop(task.name), None if task.status == 0 else _explain(task))
        except KeyboardInterrupt:
            self.stopped_by = signal.SIGINT

    def _ended_tasks(self, waiting: dict[str, Path]) -> Iterator[TaskEnded]:
        yield from self._arrays.follow(self._out / BATCH)  # tasks of an earlier call that was stopped still run
        if waiting:
            with running(self._array(waiting), self._launcher) as ends:
                yield from ends

    def _array(self, waiting: dict[str, Path]) -> JobArray:
        tasks = (
            Task(name, (sys.executable, "-m", "foretrain.scaling.trials.run", str(folder.absolute())))
            for name, folder in waiting.items()
        )
        return JobArray(
            name=self._name,
            folder=self._out / BATCH,
            tasks=tuple(tasks),
            launch=self._config.launch,
            ranks=self._ranks,
            on_gpus=self._config.train.device != "cpu",
            at_once=self._at_once,
            python_path=plugin_path(self._config, Path.cwd(), os.environ),
        )


def _explain(task: TaskEnded) -> str:
    """How a task ended, and the last lines that it printed."""
    how = "was cancelled, or is gone" if task.status is None else f"ended with status {task.status}"
    return "\n".join([how, *last_lines(task.log, TAIL_LINES)])
