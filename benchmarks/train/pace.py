"""How the process of a contestant takes steps as it is asked for, measures them, and waits for the next order."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from benchmarks.train.task import Task
from foretrain.parallel.phases import PhaseClock
from foretrain.trainer.step_profile import Profiler

Record = dict[str, Any]


class FinishedError(Exception):
    """No more steps are wanted: it ends the loop of a contestant, whoever runs it."""


class Pace:
    """Takes orders from a channel, one JSON object in a line, and answers each with the measurements of its steps.

    An order has `steps`, and may have `lead`: steps before them that are not measured, in which caches become warm
    again; `norm`: the norm of the weights is wanted too; and `profile`: where the time goes is wanted too. The end of
    the channel ends the loop.
    """

    def __init__(self, orders: IO[str], answers: IO[str], device: torch.device) -> None:
        self._orders, self._answers, self._device = orders, answers, device
        self._weights_norm: Callable[[], float] = lambda: 0.0
        self._profiler: Profiler | None = None

    def report_ready(self, weights_norm: Callable[[], float]) -> None:
        """Report that the contestant is ready, and wait for the first order. `weights_norm()`: L2, of all weights."""
        self._weights_norm = weights_norm
        self._answer({"weights_norm": weights_norm()})
        self._await_order()

    def end_step(self, loss: Tensor | float, grad_norm: Tensor | float | None) -> None:
        """End a step here, with its loss and its norm before clipping (None: not known). Raises FinishedError."""
        if self._lead > 0:
            self._lead -= 1
            if self._lead == 0:
                self._start()
            return
        self._clock.end(str(len(self._losses)))
        self._losses.append(loss)
        self._grad_norms.append(grad_norm)
        if len(self._losses) == self._order["steps"]:
            self._report()
            self._await_order()

    def _await_order(self) -> None:
        line = self._orders.readline()
        if not line:
            raise FinishedError
        self._order: Record = json.loads(line)
        self._lead = int(self._order.get("lead", 0))
        Path("/proc/self/clear_refs").write_text("5")  # the peak of host memory becomes what is used now
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._start()

    def _start(self) -> None:
        self._synchronize()
        self._losses: list[Tensor | float] = []
        self._grad_norms: list[Tensor | float | None] = []
        self._profiler = Profiler(self._device) if self._order.get("profile") else None
        self._cpu_s = time.process_time()
        self._clock = PhaseClock(self._device)

    def _report(self) -> None:
        self._synchronize()
        cpu_s = time.process_time() - self._cpu_s
        step_s = list(self._clock.seconds().values())
        answer: Record = {
            "step_s": step_s,
            "cpu_s": cpu_s,
            "losses": [float(each) for each in self._losses],
            "grad_norms": [None if each is None else float(each) for each in self._grad_norms],
            "threads": torch.get_num_threads(),
            **peaks(self._device),
        }
        if self._profiler is not None:
            answer["profile"] = self._profiler.end(sum(step_s))
        if self._order.get("norm"):
            answer["weights_norm"] = self._weights_norm()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the other contestants share the GPU
        self._answer(answer)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _answer(self, record: Record) -> None:
        self._answers.write(json.dumps(record) + "\n")
        self._answers.flush()


@dataclass(frozen=True)
class Job:
    """What a contestant gets."""

    task: Task
    shared: Path
    """The folder with the corpus and the batches, which nobody may change."""
    own: Path
    """An empty folder of the contestant."""
    pace: Pace

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.task.device)


def peaks(device: torch.device) -> dict[str, int]:
    """The most memory since the last order, in bytes: of this process, and of its tensors on a GPU."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {"host_peak_bytes": 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))}
    if device.type == "cuda":
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated()
    return found
