"""The callback that checks in each step that the state of the optimizer has not changed in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.consistency.memory import UnchangedState

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class MemoryCheck(Callback):
    """Ends the run, on every rank, if the fp32 state of a rank has changed between two updates.

    Each step is checked, and the ranks learn the result every `every` steps (0: not by steps), before each checkpoint,
    and if the loss or the gradient norm is not sound, of which the change may be the cause.
    """

    def __init__(self, unchanged: UnchangedState, every: int) -> None:
        self._unchanged, self._every = unchanged, every

    def on_fit_start(self, trainer: Trainer) -> None:
        self._unchanged.note_start(trainer.run.start_step)

    def before_update(self, trainer: Trainer, number: int) -> None:
        self._unchanged.compare(number)

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        """Raise ChangedMemoryError, on every rank, if the state of one has changed."""
        self._unchanged.judge(step.number)
        self._unchanged.forget()

    def on_step(self, trainer: Trainer, step: Step) -> None:
        """Raise ChangedMemoryError, on every rank, if the state of one has changed and the step is not sound."""
        if step.anomaly:
            self._unchanged.judge(step.number)
        self._unchanged.note()

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise ChangedMemoryError, on every rank, if the state of one has changed."""
        if step.save or (self._every and step.number % self._every == 0):
            self._unchanged.judge(step.number)
