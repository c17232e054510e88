"""The callback that reports, at the start of a session, what is trained where, and what this session changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from foretrain.trainer.callbacks.base import Callback
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.stages.timing import stage_layers

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class Announcement(Callback):
    """Reports the model, its precision and devices, measured pipeline stages, and changes of the data that the user
    allowed."""

    def on_fit_start(self, trainer: Trainer) -> None:
        run, groups = trainer.run, trainer.groups
        num_params, num_ranks = ModelSize.of(run.config.model).num_params, groups.layout.world_size
        ranks = f"{num_ranks} ranks" if num_ranks > 1 else "1 rank"
        trainer.report.message(
            f"{groups.layout}: {num_params:,} parameters in {run.config.train.precision} on {ranks} "
            f"({device_name(groups.device)}), from step {run.start_step:,}"
        )
        if run.measures_stages:
            sizes = stage_layers(run.layout, run.config.model)
            trainer.report.message(
                f"blocks of the stages, as measured: {sizes} (parallel.stage_layers={sizes} keeps them)"
            )
        for change in run.resume.data_changes if run.resume else ():
            trainer.report.event(
                "data_changed",
                run.start_step,
                {"change": change},
                f"from step {run.start_step + 1} on the data have changed: {change}",
            )


def device_name(device: torch.device) -> str:
    """The name that its maker gives a GPU; "cpu" for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
