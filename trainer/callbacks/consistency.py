"""The callback that checks, now and then, that the ranks agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.consistency.check import Consistency

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class ConsistencyCheck(Callback):
    """Ends the run if ranks differ in what must be equal.

    It checks at the start, every `train.check_every` steps, and before each checkpoint, so that no checkpoint of a run
    that went wrong is written.
    """

    def __init__(self, consistency: Consistency, every: int) -> None:
        self.consistency, self._every = consistency, every

    def on_fit_start(self, trainer: Trainer) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        self.consistency.check(trainer.run.start_step, trainer.samples_consumed)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        if step.save or step.number % self._every == 0:
            self.consistency.check(step.number, trainer.samples_consumed)
