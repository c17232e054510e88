"""The callback that writes checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, HeldOutLoss, Outcome, Step
from foretrain.trainer.checkpoint.files import SaveError

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class CheckpointWriter(Callback):
    """Writes a checkpoint after each step that asks for one, while training continues.

    A run survives one that cannot be written. The last of a session is complete before the session ends.
    """

    cause = "checkpoint"

    def __init__(self) -> None:
        self._val_loss: tuple[int, float] | None = None
        """The step of the last evaluation, and its loss."""

    def on_evaluation(self, trainer: Trainer, step: int, loss: HeldOutLoss) -> None:
        self._val_loss = step, loss.total

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise SaveError, on every rank, if the last checkpoint of a session cannot be written."""
        ends = step.is_last or step.stop is not None
        if trainer.checkpoints.is_saving:
            if step.save:
                if step.is_writing:
                    trainer.report.message(f"step {step.number}: waiting for the checkpoint before to be written")
                self._complete(trainer, step.number, trainer.checkpoints.finish)
            elif not step.is_writing:
                self._complete(trainer, step.number, trainer.checkpoints.advance)
        if step.save:
            in_background = trainer.run.config.train.checkpoint_in_background and not ends
            begin = trainer.begin_save if in_background else trainer.save
            evaluated, loss = self._val_loss or (None, None)
            val_loss = loss if evaluated == step.number else None
            self._complete(trainer, step.number, lambda: begin(step.number, val_loss), is_last=ends)

    def on_fit_end(self, trainer: Trainer, outcome: Outcome) -> None:
        self._complete(trainer, outcome.step, trainer.checkpoints.finish)

    def _complete(self, trainer: Trainer, step: int, work: Callable[[], object], *, is_last: bool = False) -> None:
        try:
            path = work()
        except SaveError as error:
            if is_last:
                raise
            text = f"step {step}: {error}. The run continues, and a later step tries again"
            trainer.report.event("checkpoint_failed", step, {"error": str(error)}, text)
            return
        if path is not None:
            trainer.call("on_checkpoint", path)
