"""Where the time of a step goes, from torch.profiler.

On a CPU, the time of an operation is its own time, without that of operations inside it; what no operation takes is
Python. On a GPU it is that of its kernels, and what no kernel takes is "idle": the GPU waits for Python, or for data.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

KINDS = {
    "communication": ("nccl", "gloo", "c10d", "all_reduce", "allreduce", "all_gather", "allgather", "reduce_scatter"),
    "attention": ("attention", "flash", "sdpa"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear"),
    "loss": ("cross_entropy", "log_softmax", "nll_loss"),
    "embedding": ("embedding", "index_select", "aten::index"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone", "aten::contiguous", "aten::fill_", "aten::zero_"),
    "compiled kernels": ("graph_", "compiledfx", "triton", "cpp_fused", "torch-compiled"),
}
"""Kinds of operations, by parts of their names in lower case; the first that fits counts. Compiled code calls the same
products; what it fuses is a kind of its own."""
OPTIMIZER = ("optimizer.step", "_fused_adam", "_foreach_addcdiv")
"""An operation inside one of these belongs to the optimizer."""
OTHER, DATA, PYTHON, IDLE = "elementwise and others", "waiting for data", "Python", "idle"


class Profiler:
    """Observes this process from when it is made until `end`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(activities=activities, acc_events=True)
        self._profile.start()

    def end(self, wall_s: float, waited_s: float = 0.0) -> dict[str, float]:
        """Seconds of each kind in the `wall_s` seconds that were observed, of which `waited_s` were waited for data."""
        self._profile.stop()
        events = [each for each in self._profile.events() or [] if each.device_type == DeviceType.CPU]
        operations = ((_names(each), _own_s(each, self._on_gpu)) for each in events)
        return shares(operations, wall_s, waited_s, on_gpu=self._on_gpu)

    def write_trace(self, path: Path) -> None:
        """Write every operation that was observed, for chrome://tracing or https://ui.perfetto.dev; call `end` before.

        The file is compressed if its name ends with .gz. Raises OSError if it cannot be written.
        """
        self._profile.export_chrome_trace(str(path))


def shares(
    operations: Iterable[tuple[Sequence[str], float]], wall_s: float, waited_s: float = 0.0, *, on_gpu: bool
) -> dict[str, float]:
    """Seconds of each kind, the longest first. An operation is its name, then those of the operations that it is inside
    of, and its own seconds. What is left of the wall without the wait for data is Python's, or idle time of a GPU."""
    found: dict[str, float] = defaultdict(float)
    for names, own_s in operations:
        found[kind_of(names)] += own_s
    found[DATA] += waited_s
    found[IDLE if on_gpu else PYTHON] = max(0.0, wall_s - sum(found.values()))
    return {kind: seconds for kind, seconds in sorted(found.items(), key=lambda pair: -pair[1]) if seconds > 0}


def kind_of(names: Sequence[str]) -> str:
    """The kind of an operation, by its name and those of the operations that it is inside of."""
    lower = [name.lower() for name in names]
    if any(part in name for name in lower for part in OPTIMIZER):
        return "optimizer"
    for name in lower:
        for kind, parts in KINDS.items():
            if any(part in name for part in parts):
                return kind
    return OTHER


def _names(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _own_s(event: Any, on_gpu: bool) -> float:
    if on_gpu:
        return sum(kernel.duration for kernel in event.kernels) / 1e6
    return event.self_cpu_time_total / 1e6
