"""The callback that measures how well the accelerators are used: MFU, HFU and their memory."""

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
    """Adds to each step of a run on GPUs its utilization, and the memory in GiB of the rank that has most in use.

    `device_peak_gib` is the most that tensors took at a time during the step, `device_allocated_gib` what they take
    after it, and `device_reserved_gib` what torch keeps of the device.
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
        gib = torch.tensor(num_bytes, dtype=torch.float64) / 2**30
        dist.all_reduce(gib, dist.ReduceOp.MAX, group=self._groups.cpu)
        names = ("device_peak_gib", "device_allocated_gib", "device_reserved_gib")
        step.metrics |= {"mfu": used.mfu, "hfu": used.hfu, **dict(zip(names, gib.tolist(), strict=True))}
