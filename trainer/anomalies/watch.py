"""The callback that decides about each update, and says what it has found: `train.on_non_finite`, `train.on_spike`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from foretrain.configs.schema import TrainConfig
from foretrain.trainer.anomalies.statistic import SpikeStatistic
from foretrain.trainer.callbacks.base import Callback, Step

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class DivergedError(RuntimeError):
    """A loss or a gradient norm is not a finite number, or steps are not sound again and again."""


@dataclass(frozen=True)
class Anomaly:
    """A step that is not sound."""

    kind: Literal["non_finite", "spike"]
    policy: Literal["stop", "warn", "skip", "rollback"]
    reason: str


class Watch(Callback):
    """Decides, from the loss and the gradient norm of a step, whether its parameters are updated.

    Both numbers have the same bits on every rank, and so has the state of the statistic: all ranks decide alike, and a
    resumed run decides as one that was not stopped.
    """

    name = "anomalies"

    def __init__(self, train: TrainConfig) -> None:
        self._train = train
        self._statistic = SpikeStatistic()
        self._skips_in_a_row = 0
        self.anomaly: Anomaly | None = None
        """What is not sound in the last step; None if it is sound."""

    @property
    def wants_rollback(self) -> bool:
        """Whether the run must go back to a checkpoint instead of counting the last step."""
        return self.anomaly is not None and self.anomaly.policy == "rollback"

    def accepts(self, loss: float, grad_norm: float) -> bool:
        """Whether a step may update the parameters. Remembers the step."""
        self.anomaly = self._judge(loss, grad_norm)
        if self.anomaly is not None and self.anomaly.policy != "warn":
            self._skips_in_a_row += self.anomaly.policy == "skip"
            return False
        self._skips_in_a_row = 0
        self._statistic.add(loss, grad_norm)
        return True

    def _judge(self, loss: float, grad_norm: float) -> Anomaly | None:
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            reason = f"loss {loss}, gradient norm {grad_norm}"
            return Anomaly("non_finite", self._train.on_non_finite, reason)
        if self._train.on_spike == "ignore":
            return None
        reason = self._statistic.spike(loss, grad_norm, self._train.spike_threshold)
        return Anomaly("spike", self._train.on_spike, reason) if reason else None

    def on_step(self, trainer: Trainer, step: Step) -> None:
        if self.anomaly is not None:
            step.anomaly = self.anomaly.reason
            if self.anomaly.policy == "skip":
                step.metrics["skipped"] = 1

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise DivergedError, on every rank, if the run must end."""
        if self.anomaly is None:
            return
        if self.anomaly.policy == "stop":
            raise DivergedError(
                f"step {step.number}: {self.anomaly.reason}: training has diverged. Lower optimizer.lr or "
                "optimizer.clip_norm, or lengthen schedule.warmup_tokens, in a new run_dir; "
                "train.on_non_finite=skip or rollback leaves such steps out"
            )
        first, last = trainer.global_samples(step.number)
        facts: dict[str, Any] = {name: step.metrics[name] for name in ("loss", "grad_norm")}
        facts |= {"cause": self.anomaly.kind, "reason": self.anomaly.reason, "first_sample": first, "last_sample": last}
        kind, done = ("skipped", "; its update is skipped") if self.anomaly.policy == "skip" else ("spike", "")
        text = f"step {step.number}, samples {first} to {last}: {self.anomaly.reason}{done}"
        trainer.report.event(kind, step.number, facts, text)
        if self._skips_in_a_row > self._train.max_skips:
            raise DivergedError(
                f"step {step.number}: {self._skips_in_a_row} steps in a row were skipped, more than train.max_skips = "
                f"{self._train.max_skips}; the last: {self.anomaly.reason}. Lower optimizer.lr in a new run_dir, or "
                "raise train.max_skips"
            )

    def state(self) -> dict[str, Any]:
        return {**self._statistic.state(), "skips_in_a_row": self._skips_in_a_row}

    def load_state(self, state: dict[str, Any]) -> None:
        self._statistic = SpikeStatistic(state["losses"], state["log_norms"])
        self._skips_in_a_row = state["skips_in_a_row"]
