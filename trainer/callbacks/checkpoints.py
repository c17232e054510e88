"""The callback that writes checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, HeldOutLoss, Outcome, Step
from foretrain.trainer.checkpoint.files import SaveError

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


PAUSES_S = (1.0, 5.0, 25.0)
"""Seconds before each further attempt to write the last checkpoint of a session, if a fault that passes prevents it."""


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
        """Raise SaveError, on every rank, if the last checkpoint of a session cannot be written.

        After a fault that passes, it is tried again: a run that ends without it takes all steps since the one before
        again.
        """
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
        pauses_s = [*PAUSES_S] if is_last else []
        while True:
            try:
                path = work()
                break
            except SaveError as error:
                again = bool(error.is_passing and pauses_s)
                if is_last and not again:
                    raise
                next_try = "it is tried again" if again else "The run continues, and a later step tries again"
                text = f"step {step}: {error}. {next_try}"
                trainer.report.event("checkpoint_failed", step, {"error": str(error)}, text)
            if not again:
                return
            time.sleep(pauses_s.pop(0))
        if path is not None:
            trainer.call("on_checkpoint", path)
