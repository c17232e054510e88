"""The callback that reports, at the start of a session, what this session does differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback
from foretrain.trainer.stages.timing import stage_layers

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class Announcement(Callback):
    """Reports measured pipeline stages, and changes of the data that the user allowed."""

    def on_fit_start(self, trainer: Trainer) -> None:
        run = trainer.run
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
