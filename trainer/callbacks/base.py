"""The base class of callbacks, and what they learn about a step and about the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.registry import Registry
from foretrain.trainer.goodput.causes import Cause
from foretrain.trainer.metrics import VAL_BITS, VAL_LOSS, VAL_LOSS_ERROR
from foretrain.trainer.tasks.result import TaskResult

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

StopReason = Literal["signal", "stop_after", "callback"]
"""Why a run stops before the end of its budget: a signal, `train.stop_after`, or a callback that asked for it."""


@dataclass
class Step:
    """One optimizer step on this rank, after the update, or after it was skipped."""

    number: int
    """Steps done, this one included."""
    batch: Batch
    """This rank's samples of the global batch."""
    data_wait_s: float
    """Seconds that this rank waited for the batch."""
    metrics: dict[str, float]
    """The metrics of the step by name, the same on every rank; `on_step` may add to them."""
    is_last: bool
    """Whether the budget of the run ends with this step."""
    phase_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds that this rank's device spent in each phase of the step, as in `StepResult`."""
    stop: StopReason | None = None
    """If set, the run writes a checkpoint and stops after this step. `on_step` may set it, alike on every rank."""
    save: bool = False
    """If true, a checkpoint is written after this step. `on_step` may set it, alike on every rank."""
    anomaly: str = ""
    """What is not sound about the loss or the gradient norm; "" if both are."""
    is_writing: bool = False
    """Whether any rank still writes its part of the checkpoint before; the same on every rank."""


@dataclass(frozen=True)
class HeldOutLoss:
    """The result of an evaluation, in nats per token, the same on every rank."""

    total: float
    """Mean over the held-out tokens; of several data sources, the mean of their losses by weight."""
    by_source: dict[str, float] = field(default_factory=dict)
    """Mean over the held-out tokens of each data source that has a name."""
    standard_error: float | None = None
    """Standard error of `total` over held-out samples, see `trainer/standard_error.py`; None if it is not known."""
    standard_error_by_source: dict[str, float] = field(default_factory=dict)
    """Those that are known of `by_source`."""
    num_samples: int | None = None
    """Held-out samples."""
    bits_per_byte: float | None = None
    """`total` in bits for each UTF-8 byte of the held-out text, which no tokenizer changes; None if the bytes are not
    known."""
    by_task: dict[str, TaskResult] = field(default_factory=dict)
    """What the same evaluation has found of each task of `train.eval_tasks`."""

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        return f"{self.total:.4f}{error}"

    @property
    def as_metrics(self) -> dict[str, float]:
        """What is known of it by the names of metrics."""
        losses = {f"val_loss/{name}": loss for name, loss in self.by_source.items()}
        errors = {f"{VAL_LOSS_ERROR}/{name}": error for name, error in self.standard_error_by_source.items()}
        total = {
            VAL_LOSS: self.total,
            VAL_LOSS_ERROR: self.standard_error,
            VAL_BITS: self.bits_per_byte,
            "val_samples": self.num_samples,
        }
        known = {name: value for name, value in (total | losses | errors).items() if value is not None}
        for task, result in self.by_task.items():
            known |= result.as_metrics(task)
        return known


@dataclass(frozen=True)
class Outcome:
    """How `Trainer.fit` ended, the same on every rank."""

    step: int
    """Steps that are done."""
    stopped_by: StopReason | None
    """Why the run stopped early; None if its budget is used up."""

    @property
    def is_complete(self) -> bool:
        """Whether the budget is used up."""
        return self.stopped_by is None


class Callback:
    """Acts at fixed points of a run. Every method of this base class does nothing.

    Each rank has the same callbacks and calls the same hooks at the same steps, so a hook may use collectives, and must
    then do so on every rank. At each hook the callbacks are called in a fixed order: what was decided about the update,
    telemetry, what was compiled, goodput, the profile, the callbacks given to the Trainer in their order, the
    comparison with a prediction, the checks of consistency, evaluation, the lock, checkpoints, stragglers, the watch
    for hangs. A step because of which the run goes back to a checkpoint calls `before_step`, `before_update` and
    `on_rollback` alone.
    """

    name: str = ""
    """Key of this callback's state in a checkpoint; a callback without state needs none."""
    cause: Cause | None = None
    """What the time in its hooks is counted for in the goodput of the run; None: for "other", as what else happens
    between two steps."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called before the first step of this session."""

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        """Called with this rank's samples of step `number`, before its forward pass."""

    def before_update(self, trainer: Trainer, number: int) -> None:
        """Called when the gradients of step `number` are reduced, before its update is made or left out.

        The time that it takes is part of the step.
        """

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        """Called before the run goes back to a checkpoint because of `step`, whose update was not made."""

    def on_step(self, trainer: Trainer, step: Step) -> None:
        """Called after the optimizer step and before its report: may add metrics, or ask for a stop or a checkpoint."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Called after the step is reported; checks, evaluations and checkpoints happen here."""

    def on_evaluation(self, trainer: Trainer, step: int, loss: HeldOutLoss) -> None:
        """Called after an evaluation at `step`."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Called after a checkpoint is complete in the folder `path`, which may be some steps after its own."""

    def on_fit_end(self, trainer: Trainer, outcome: Outcome) -> None:
        """Called after the last step of this session; not called if the session ends with an exception."""

    def on_close(self, trainer: Trainer) -> None:
        """Called once when the session ends, also with an exception: ends threads, and closes files."""

    def state(self) -> dict[str, Any]:
        """What this callback must remember in a checkpoint, as plain values that JSON can hold, alike on every rank."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned when the checkpoint was written. Called before `on_fit_start`, and when the run
        goes back to a checkpoint."""


CALLBACKS: Registry[Callable[[], Callback]] = Registry("callback", "train.callbacks")
"""Makers of the callbacks that a config can name."""
