"""The plugin of the acceptance program: callbacks that its runs name in `train.callbacks`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foretrain.files import write_atomically
from foretrain.trainer.callbacks import CALLBACKS, Callback, Outcome, Step
from foretrain.trainer.checkpoint.loading import load

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

NAME = "benchmarks.gpu.plugin"
SLOW_AFTER = 12
SLOW_S = 0.25
TIMES_FILE = "checkpoint_times.json"


class Deterministic(Callback):
    """Lets torch choose kernels that add in the same order each time.

    An operation that has no such kernel prints a warning, and does not end the run: whether the curve is the same is
    what the check finds out.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)


class Slow(Callback):
    """Slows rank 0 down after some steps, so that another process has time to kill the run in the middle.

    The other ranks are then inside the collectives of the next step, which is the worst moment.
    """

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if step.number >= SLOW_AFTER and trainer.groups.rank == 0:
            time.sleep(SLOW_S)


class CheckpointTimes(Callback):
    """Measures how long it takes to save a checkpoint, and to load it again after the last step.

    Both are what a run does itself, with a barrier before the clock starts. Rank 0 writes the times, in seconds, and
    the bytes of the files into the run's folder.
    """

    def __init__(self) -> None:
        self.save_s: list[float] = []
        self.load_s: list[float] = []

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if not step.save:
            self.save_s.append(_timed(lambda: trainer.save(step.number)))

    def on_fit_end(self, trainer: Trainer, outcome: Outcome) -> None:
        newest = trainer.checkpoints.complete()[-1]
        for _ in range(2):
            self.load_s.append(_timed(lambda: load(newest, trainer.state, outcome.step)))
        if trainer.groups.rank == 0:
            times = {"save_s": self.save_s, "load_s": self.load_s, "num_bytes": _size(newest)}
            write_atomically(trainer.run.run_dir / TIMES_FILE, json.dumps(times))


def _timed(function: Callable[[], object]) -> float:
    """Seconds until every rank has returned from the function."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started_s = time.perf_counter()
    function()
    dist.barrier()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


for name, callback in (
    ("gpu_deterministic", Deterministic),
    ("gpu_slow", Slow),
    ("gpu_checkpoint_times", CheckpointTimes),
):
    CALLBACKS.register(name, callback)
