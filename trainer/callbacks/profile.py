"""The callback that records what some ranks do in some steps, and reports where the time of these steps went."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from foretrain.configs.schema import TrainConfig
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.folder import PROFILES
from foretrain.trainer.step_profile import PYTHON, Profiler

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

LEAST_SHARE = 0.005
"""Kinds of work with a smaller share of the time are not reported."""
MAX_MEMORY_EVENTS = 100_000
"""Allocations of a GPU that a snapshot has, the latest ones."""


class StepProfile(Callback):
    """Records the steps of `train.profile_steps` on the ranks of `train.profile_ranks`, once in a session.

    What is recorded begins with the forward pass of the first step and ends with the report of the last one, and has
    what happens between the steps, such as evaluations. Recording makes the steps slower. The run's goodput, its
    metrics and its curve are those of any other run.
    """

    def __init__(self, run_dir: Path, train: TrainConfig) -> None:
        self._folder, self._ranks = run_dir / PROFILES, sorted(set(train.profile_ranks))
        self._first, self._last = train.profile_steps
        self._profiler: Profiler | None = None
        self._is_due = False
        self._waited_s = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._first = max(self._first, trainer.run.start_step + 1)
        self._is_due = self._first <= self._last

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if not self._is_due or number != self._first:
            return
        self._waited_s = 0.0
        self._started_s = time.perf_counter()
        if trainer.groups.rank in self._ranks:
            self._profiler = Profiler(trainer.groups.device)
            if trainer.groups.device.type == "cuda":
                torch.cuda.memory._record_memory_history(max_entries=MAX_MEMORY_EVENTS)

    def on_step(self, trainer: Trainer, step: Step) -> None:
        if self._is_due and step.number > self._first:
            self._waited_s += step.metrics["data_wait_s"]

    def after_step(self, trainer: Trainer, step: Step) -> None:
        # The run may also end or stop before the last of the steps, which every rank knows.
        is_last = step.number == self._last or step.is_last or step.stop is not None
        if not (self._is_due and step.number >= self._first and is_last):
            return
        self._is_due = False
        own = self._end(trainer, step.number)
        found: list[str | None] = [None] * trainer.groups.layout.world_size
        dist.all_gather_object(found, own, group=trainer.groups.cpu)
        for line in found:
            if line is not None:
                trainer.report.message(line)

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        """Forget what was recorded: the steps are taken again."""
        if self._profiler is not None:
            trainer.engine.zero.await_weights()
            self._profiler.end(0.0)
            self._forget(trainer)

    def _end(self, trainer: Trainer, last: int) -> str | None:
        """Write what this rank has recorded, and return in one line where the time went; None if it records nothing."""
        if self._profiler is None:
            return None
        # torch ends the process if a collective that the profiler has seen the start of ends after the profile. For the
        # same reason, a session that ends with an error leaves the profiler as it is.
        trainer.engine.zero.await_weights()
        on_gpu, rank = trainer.groups.device.type == "cuda", trainer.groups.rank
        if on_gpu:
            torch.cuda.synchronize()
        wall_s = time.perf_counter() - self._started_s
        seconds = self._profiler.end(wall_s, self._waited_s)
        if PYTHON in seconds and trainer.groups.layout.world_size > 1:
            # gloo waits in threads of its own, without an operation that the profiler sees.
            seconds["Python and waiting for ranks"] = seconds.pop(PYTHON)
        line = f"steps {self._first} to {last}, rank {rank}: {_in_words(seconds, wall_s, last - self._first + 1)}"
        name = f"steps-{self._first}-{last}-rank-{rank:03d}"
        trace = self._folder / f"{name}.trace.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._profiler.write_trace(trace)
            if on_gpu:
                torch.cuda.memory._dump_snapshot(str(self._folder / f"{name}.memory.pickle"))
            line += f"; {trace} has every operation"
        except OSError as error:
            line += f"; the trace cannot be written ({error})"
        self._forget(trainer)
        return line

    def _forget(self, trainer: Trainer) -> None:
        self._profiler = None
        if trainer.groups.device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)


def _in_words(seconds: dict[str, float], wall_s: float, num_steps: int) -> str:
    """The time of a step, and the share of each kind of work."""
    longest_first = sorted(seconds.items(), key=lambda pair: -pair[1])
    parts = (f"{kind} {share:.0%}" for kind, own_s in longest_first if (share := own_s / wall_s) >= LEAST_SHARE)
    return f"{1e3 * wall_s / num_steps:,.0f} ms a step: {', '.join(parts)}"
