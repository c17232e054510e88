"""The callback that replays a step now and then, to find ranks that compute wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.consistency.replay import Replay

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class ReplayCheck(Callback):
    """Ends the run if a step gives other gradients when it is computed again, on another rank or on the same.

    Every `every` steps, and at the step after one that was not sound.
    """

    def __init__(self, replay: Replay, every: int) -> None:
        self._replay, self._every = replay, every
        self._is_suspicious = False

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        self._replay.cancel()
        if self._is_suspicious or number % self._every == 0:
            self._replay.before_step(number, batch)

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        self._is_suspicious = True

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self._is_suspicious = bool(step.anomaly)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise InconsistentRanksError, on every rank, if ranks differ."""
        self._replay.after_step(step.number)

    def on_close(self, trainer: Trainer) -> None:
        self._replay.cancel()
