"""The callback that replays a step now and then, to find ranks that compute wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.consistency.replay import Replay

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class ReplayCheck(Callback):
    """Ends the run if a step gives other gradients when it is computed again, on another rank or on the same."""

    def __init__(self, replay: Replay, every: int) -> None:
        self._replay, self._every = replay, every

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        self._replay.cancel()
        if number % self._every == 0:
            self._replay.before_step(number, batch)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        self._replay.after_step(step.number)
