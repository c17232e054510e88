"""The callback that writes checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, Step

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class CheckpointWriter(Callback):
    """Writes a checkpoint after each step that asks for one."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if step.save:
            trainer.call("on_checkpoint", trainer.save(step.number))
