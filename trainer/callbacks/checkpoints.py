"""The callback that writes checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.checkpoint.files import SaveError

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class CheckpointWriter(Callback):
    """Writes a checkpoint after each step that asks for one. A run survives one that cannot be written."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise SaveError, on every rank, if the last checkpoint of a session cannot be written."""
        if not step.save:
            return
        try:
            path = trainer.save(step.number)
        except SaveError as error:
            if step.is_last or step.stop:
                raise
            text = f"step {step.number}: {error}. The run continues, and a later step tries again"
            trainer.report.event("checkpoint_failed", step.number, {"error": str(error)}, text)
            return
        trainer.call("on_checkpoint", path)
