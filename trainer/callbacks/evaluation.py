"""The callback that evaluates the model on held-out samples, and on tasks."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from foretrain.configs.schema import TrainConfig
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.evaluation import Choice, Evaluation
from foretrain.trainer.metrics import TASK
from foretrain.trainer.tasks.evaluation import TaskEvaluation

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class PeriodicEvaluation(Callback):
    """Evaluates every `train.eval_every` steps (0: never in between) and after the last step of the budget.

    If the first evaluation chooses the number of samples, checkpoints hold it: a run that resumes continues with the
    same samples in any layout, and a run that goes back to a step before that evaluation makes it again.
    """

    cause = "evaluation"

    def __init__(self, evaluation: Evaluation, config: TrainConfig, tasks: TaskEvaluation | None = None) -> None:
        self._tasks = tasks
        self._evaluation, self._every, self._wanted = evaluation, config.eval_every, config.eval_standard_error
        if self._wanted is not None:
            self.name = "evaluation"

    def on_fit_start(self, trainer: Trainer) -> None:
        """Raise CorpusError, on every rank, if the samples cannot be read."""
        self._evaluation.read()
        for task in self._tasks.tasks if self._tasks else ():
            fields = {"task": task.name, "problems": task.num_problems, "sha256": task.fingerprint}
            announcement = f"evaluations have the task {task.name}, with {task.num_problems:,} problems"
            trainer.report.event(TASK, trainer.run.start_step, fields, announcement)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if step.is_last or (self._every and step.number % self._every == 0):
            loss, choice = self._evaluation()
            if choice is not None:
                trainer.report.event("eval_samples", step.number, asdict(choice), self._announcement(step, choice))
            if self._tasks is not None:
                loss = replace(loss, by_task=self._tasks())
            trainer.report.evaluation(step.number, loss)
            trainer.call("on_evaluation", step.number, loss)

    def _announcement(self, step: Step, choice: Choice) -> str:
        chosen = f"step {step.number}: evaluations have {choice.num_samples:,} samples from now on"
        if choice.standard_error is None:
            return f"{chosen}, which are all: a source has one held-out document only, so no standard error is known"
        if choice.is_reached:
            return f"{chosen}, with a standard error of {choice.standard_error:.2g}"
        return (
            f"{chosen}, which are all held-out windows: their standard error is {choice.standard_error:.2g}, and "
            f"train.eval_standard_error = {self._wanted} needs a larger held-out set (prepare --val-fraction)"
        )

    def state(self) -> dict[str, Any]:
        return {"standard_error": self._wanted, "num_samples": self._evaluation.num_samples}

    def load_state(self, state: dict[str, Any]) -> None:
        # Another error may be asked for in a run that resumes, which then chooses again.
        self._evaluation.num_samples = state["num_samples"] if state["standard_error"] == self._wanted else None
