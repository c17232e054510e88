"""The report of a run as lines of text."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from foretrain.progress import format_duration
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks.base import Session, Sink

SPEED_WINDOW_STEPS = 50
"""Number of latest steps over which the displayed speed is averaged."""


class LinesSink(Sink):
    """Makes lines of the report of a session: one every `train.log_every` steps and at the last step, one for each
    evaluation and each event. A subclass writes them, in `message`."""

    def open(self, session: Session) -> None:
        self._total_steps = session.total_steps
        self._log_every = session.config.train.log_every
        self._speed = Speed(session.tokens_per_step)
        self._latest: Mapping[str, Any] = {"step": session.start_step}
        self._printed_step = session.start_step

    def close(self) -> None:
        if self._latest["step"] > self._printed_step:
            self._print_step()

    def step(self, metrics: Mapping[str, float]) -> None:
        self._latest = metrics
        self._speed.add(metrics["step_s"])
        at_end = metrics["step"] == self._total_steps
        if metrics["step"] % self._log_every == 0 or at_end:
            self._print_step()

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        each = "".join(f"  {name} {value:.4f}" for name, value in loss.by_source.items())
        each += "".join(f"  {name}: {result}" for name, result in loss.by_task.items())
        self.message(f"{self._count(step)}  held-out loss {loss}{each}")

    def rewind(self, step: int) -> None:
        self._printed_step = step
        self._latest = {"step": step}

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self.message(message)

    def _print_step(self) -> None:
        self._printed_step = self._latest["step"]
        self.message(f"{self._count(self._printed_step)}  {'  '.join(self._values())}  {self._time_left()} left")

    def _count(self, step: int) -> str:
        return f"step {step:>{len(str(self._total_steps))}}/{self._total_steps}"

    def _values(self) -> list[str]:
        speed = self._speed.tokens_per_s()
        values = [
            f"loss {self._latest['loss']:.4f}",
            f"grad norm {self._latest['grad_norm']:.3f}",
            f"lr {self._latest['lr']:.2e}",
            f"{'-' if speed is None else f'{speed:,.0f}'} tok/s",
        ]
        if "prediction_z" in self._latest:
            values.insert(1, f"{self._latest['prediction_z']:+.1f} sd of {self._latest['predicted_loss']:.4f}")
        if "mfu" in self._latest:  # on GPUs
            values += [f"MFU {self._latest['mfu']:.1%}", f"{self._latest['device_peak_gib']:.1f} GiB"]
            phases = {"forward_backward_s": "forward and backward", "reduce_s": "reduce", "update_s": "update"}
            values += [f"{phases[key]} {self._latest[key]:.2f} s" for key in phases if key in self._latest]
        return values

    def _time_left(self) -> str:
        step_s = self._speed.step_s()
        return "-" if step_s is None else format_duration((self._total_steps - self._latest["step"]) * step_s)


class Speed:
    """Mean speed over the latest steps. The first step of the session is left out because it includes warm-up."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._step_s: deque[float] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._warm = False

    def add(self, step_s: float) -> None:
        """Add one step that took `step_s` seconds."""
        if self._warm:
            self._step_s.append(step_s)
        self._warm = True

    def step_s(self) -> float | None:
        """Mean seconds per step, or None before the second step."""
        return sum(self._step_s) / len(self._step_s) if self._step_s else None

    def tokens_per_s(self) -> float | None:
        """Tokens per second, or None before the second step."""
        step_s = self.step_s()
        return self._tokens_per_step / step_s if step_s else None
