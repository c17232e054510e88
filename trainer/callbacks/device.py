"""The callback that measures how well the accelerators are used: MFU, HFU, their time and their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.utilization import utilization

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class DeviceMetrics(Callback):
    """Adds to each step of a run on GPUs its utilization, and the time and memory of the rank that needs most of each.

    `forward_backward_s`, `reduce_s` and `update_s` are seconds of the device. In GiB, `device_peak_gib` is the most
    that tensors took at a time during the step, `device_allocated_gib` what they take after it, and
    `device_reserved_gib` what torch keeps of the device.
    """

    def __init__(self, config: Config, groups: Groups) -> None:
        self._config, self._groups = config, groups

    def on_step(self, trainer: Trainer, step: Step) -> None:
        used = utilization(self._config, self._groups.layout.world_size, step.metrics["step_s"])
        num_bytes = [
            torch.cuda.max_memory_allocated(),
            torch.cuda.memory_allocated(),
            torch.cuda.memory_reserved(),
        ]
        torch.cuda.reset_peak_memory_stats()
        gib = [count / 2**30 for count in num_bytes]
        values = torch.tensor([*step.phase_s.values(), *gib], dtype=torch.float64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._groups.cpu)
        memory = ("device_peak_gib", "device_allocated_gib", "device_reserved_gib")
        names = (*(f"{phase}_s" for phase in step.phase_s), *memory)
        step.metrics |= {"mfu": used.mfu, "hfu": used.hfu, **dict(zip(names, values.tolist(), strict=True))}
