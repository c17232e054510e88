"""The sink that shows a run on the terminal: a live display, or plain lines where there is no terminal."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from foretrain.printable import quotable
from foretrain.progress import bar_line, format_duration, is_terminal
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks.base import Session, Sink

SPEED_WINDOW_STEPS = 50
"""Number of latest steps over which the displayed speed is averaged."""


class TerminalSink(Sink):
    """Shows the steps of one session of a run.

    On a terminal it keeps two lines up to date at the bottom. Elsewhere, as in the log of a cluster job, it prints a
    line every `train.log_every` steps and at the last step.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    def open(self, session: Session) -> None:
        self._total_steps = session.total_steps
        self._start_step = session.start_step
        self._log_every = session.config.train.log_every
        self._speed = Speed(session.tokens_per_step)
        self._latest: Mapping[str, Any] = {"step": session.start_step}
        self._printed_step = session.start_step
        self._held_out: HeldOutLoss | None = None
        self._started_s = time.monotonic()
        self._live: Live | None = None
        if is_terminal(self._console):
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start(refresh=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
        elif self._latest["step"] > self._printed_step:
            self._print_step()

    def step(self, metrics: Mapping[str, float]) -> None:
        self._latest = metrics
        self._speed.add(metrics["step_s"])
        at_end = metrics["step"] == self._total_steps
        if not self._live and (metrics["step"] % self._log_every == 0 or at_end):
            self._print_step()

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._held_out = loss
        if not self._live:
            each = "".join(f"  {name} {value:.4f}" for name, value in loss.by_source.items())
            each += "".join(f"  {name}: {result}" for name, result in loss.by_task.items())
            self.message(f"{self._count(step)}  held-out loss {loss}{each}")

    def rewind(self, step: int) -> None:
        self._start_step = self._printed_step = step
        self._latest = {"step": step}

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self.message(message)

    def message(self, text: str) -> None:
        self._console.print(quotable(text), soft_wrap=True, markup=False, highlight=False)

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

    def _render(self) -> Group:
        step = self._latest["step"]
        left = f"{self._time_left()} left"
        bar = bar_line(self._count(step), step, self._total_steps, time.monotonic() - self._started_s, left)
        if step == self._start_step:
            return Group(bar, Text("the first step is the slowest ...", style="dim"))
        values = self._values()
        if self._held_out is not None:
            values.insert(1, f"held-out {self._held_out}")
        return Group(bar, Text("  ".join(values), style="cyan", no_wrap=True, overflow="ellipsis"))


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
