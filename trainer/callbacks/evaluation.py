"""The callback that evaluates the model on held-out samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foretrain.trainer.callbacks.base import Callback, HeldOutLoss, Step
from foretrain.trainer.evaluation import Evaluation

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class PeriodicEvaluation(Callback):
    """Evaluates every `train.eval_every` steps (0: never in between) and after the last step of the budget."""

    cause = "evaluation"

    def __init__(self, evaluation: Evaluation, every: int) -> None:
        self._evaluation, self._every = evaluation, every

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if step.is_last or (self._every and step.number % self._every == 0):
            loss = HeldOutLoss(*self._evaluation())
            trainer.report.evaluation(step.number, loss.total, loss.by_source)
            trainer.call("on_evaluation", step.number, loss)
