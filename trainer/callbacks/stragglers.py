"""The callback that names ranks which are slower than their peers, while the run continues."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.distributed as dist

from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.goodput.causes import GOOD
from foretrain.trainer.goodput.clock import Clock
from foretrain.trainer.watch.stragglers import NUM_WINDOWS, WINDOW_STEPS, Stragglers
from foretrain.trainer.watch.waits import WaitClock

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class StragglerWatch(Callback):
    """Compares, now and then, the time that each rank works in a step, without the time that it waits for others.

    On CPUs, this is the step without the waits of the host, so that the rank itself is named under every layout. On a
    GPU, it is the time of the forward and backward passes, which under tensor, context and pipeline parallelism has the
    waits for the ranks of the same replica in it: all ranks of a slow replica are named. Ranks of the same pipeline
    rank are compared. For the goodput of the run, each step after a rank was named is divided into what its peers need,
    and what they wait for it.
    """

    window_steps: ClassVar[int] = WINDOW_STEPS
    """Steps over which the ranks are compared."""

    def __init__(self, spent: Clock) -> None:
        """`spent`: counts what the time of the run is spent on."""
        self._spent = spent
        self._clock = WaitClock()
        self._until_close = ExitStack()
        self._work_s: list[float] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        groups = trainer.groups
        layout = groups.layout
        places = [layout.coordinates(rank) for rank in range(layout.world_size)]
        self._stragglers = Stragglers(
            [[rank for rank, at in enumerate(places) if at.pp == pp] for pp in range(layout.pp)]
        )
        self._hosts = [""] * layout.world_size
        dist.all_gather_object(self._hosts, socket.gethostname(), group=groups.cpu)
        sharers = groups.same_samples
        self._reads = sharers is None or sharers.rank() == 0
        self._until_close.enter_context(self._clock.running())
        self._note_start()

    def on_step(self, trainer: Trainer, step: Step) -> None:
        step_s = step.metrics["step_s"] - step.metrics["data_wait_s"]
        self._spent.move(self._stragglers.cost_s(step_s), GOOD, "straggler")
        if trainer.groups.device.type == "cuda":
            self._work_s.append(step.phase_s["forward_backward"])
        else:
            waited_s = self._clock.waited_s - self._waited_s + (step.data_wait_s if self._reads else 0.0)
            self._work_s.append(time.perf_counter() - self._began_s - waited_s)
        if len(self._work_s) == self.window_steps:
            self._compare(trainer, step)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        self._note_start()

    def on_close(self, trainer: Trainer) -> None:
        self._until_close.close()

    def _note_start(self) -> None:
        self._began_s, self._waited_s = time.perf_counter(), self._clock.waited_s

    def _compare(self, trainer: Trainer, step: Step) -> None:
        groups = trainer.groups
        work_s = torch.zeros(groups.layout.world_size, dtype=torch.float64)  # in host memory
        work_s[groups.rank] = median(self._work_s)
        dist.all_reduce(work_s, group=groups.cpu)
        self._work_s.clear()
        for slow in self._stragglers.judge(work_s.tolist()):
            host, percent = self._hosts[slow.rank], 100 * (slow.ratio - 1)
            trainer.report.event(
                "straggler",
                step.number,
                {"rank": slow.rank, "host": host, "ratio": round(slow.ratio, 3)},
                f"step {step.number}: rank {slow.rank} on {host} needs {percent:.0f} % more time than its peers, since "
                f"{NUM_WINDOWS * self.window_steps} steps: the others wait for it in each step",
            )
