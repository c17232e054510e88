"""What a run shows: a live display or plain lines while it trains, and a table at its end."""

import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foretrain.progress import bar_line, format_duration, is_terminal
from foretrain.trainer.metrics import FINAL_SHARE, final_loss

SPEED_WINDOW_STEPS = 50


class Progress:
    """Shows the steps of one session of a run, from `start_step` to `total_steps`; a context manager.

    On a terminal it keeps two lines up to date at the bottom. Elsewhere, as in the log of a cluster job, it prints a
    line every `log_every` steps and at the last step taken.
    """

    def __init__(
        self,
        total_steps: int,
        tokens_per_step: int,
        log_every: int,
        start_step: int = 0,
        *,
        console: Console | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._start_step = start_step
        self._log_every = log_every
        self._speed = Speed(tokens_per_step)
        self._console = console or Console()
        self._latest: Mapping[str, Any] = {"step": start_step}
        self._printed_step = start_step
        self._val_loss: float | None = None
        self._started_s = time.monotonic()
        self._live: Live | None = None
        if is_terminal(self._console):
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif self._latest["step"] > self._printed_step:
            self._print_step()

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show one step: `step` (steps done), `loss`, `grad_norm`, `lr` and `step_s` (seconds it took)."""
        self._latest = metrics
        self._speed.add(metrics["step_s"])
        at_end = metrics["step"] == self._total_steps
        if not self._live and (metrics["step"] % self._log_every == 0 or at_end):
            self._print_step()

    def eval(self, step: int, val_loss: float, by_source: Mapping[str, float] | None = None) -> None:
        """Show the held-out loss after `step` steps, in nats per token: of all, and by source."""
        self._val_loss = val_loss
        if not self._live:
            each = "".join(f"  {name} {loss:.4f}" for name, loss in (by_source or {}).items())
            self.say(f"{self._count(step)}  held-out loss {val_loss:.4f}{each}")

    def say(self, text: str) -> None:
        """Print a line, above the live display where there is one."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _print_step(self) -> None:
        self._printed_step = self._latest["step"]
        self.say(f"{self._count(self._printed_step)}  {'  '.join(self._values())}  {self._time_left()} left")

    def _count(self, step: int) -> str:
        return f"step {step:>{len(str(self._total_steps))}}/{self._total_steps}"

    def _values(self) -> list[str]:
        speed = self._speed.tokens_per_s()
        return [
            f"loss {self._latest['loss']:.4f}",
            f"grad norm {self._latest['grad_norm']:.3f}",
            f"lr {self._latest['lr']:.2e}",
            f"{'-' if speed is None else f'{speed:,.0f}'} tok/s",
        ]

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
        if self._val_loss is not None:
            values.insert(1, f"held-out {self._val_loss:.4f}")
        return Group(bar, Text("  ".join(values), style="cyan", no_wrap=True, overflow="ellipsis"))


class Speed:
    """Mean speed over the latest steps, without the session's first step: that one pays for warming up."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._step_s: deque[float] = deque(maxlen=SPEED_WINDOW_STEPS)
        self._warm = False

    def add(self, step_s: float) -> None:
        """Count one step that took step_s seconds."""
        if self._warm:
            self._step_s.append(step_s)
        self._warm = True

    def step_s(self) -> float | None:
        """Return the mean seconds per step, or None before the second step."""
        return sum(self._step_s) / len(self._step_s) if self._step_s else None

    def tokens_per_s(self) -> float | None:
        """Return tokens per second, or None before the second step."""
        step_s = self.step_s()
        return self._tokens_per_step / step_s if step_s else None


def summary(
    records: Sequence[Mapping[str, Any]],
    *,
    run_dir: Path | str,
    layout: str,
    num_params: int,
    unigram_entropy_nats: float,
) -> Table:
    """Return a table of what a run came to, from its metrics (`read_metrics`), which may span several sessions.

    Time is the sum over steps, without evaluations and checkpoints. Losses are in nats per token. Speed is the median
    over steps of `tokens_per_s`. Raises ValueError if the metrics hold no training step.
    """
    train = [record for record in records if record["kind"] == "train"]
    val_losses = [record["val_loss"] for record in records if record["kind"] == "eval"]
    if not train:
        raise ValueError(f"the metrics in {run_dir} hold no training step: nothing to sum up")
    final = final_loss(train)
    speed = median(record["tokens_per_s"] for record in train)

    table = Table(title="Run", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("tokens trained", f"{train[-1]['tokens']:,} in {train[-1]['step']:,} steps")
    table.add_row("time in steps", format_duration(sum(record["step_s"] for record in train)))
    table.add_row("speed", f"{speed:,.0f} tokens/s (median step)")
    table.add_row("parameters", f"{num_params:,}")
    table.add_row("layout", layout)
    table.add_row("first training loss", f"{train[0]['loss']:.4f}")
    table.add_row("final training loss", f"{final:.4f} (mean of the last {FINAL_SHARE:.0%} of steps)")
    if val_losses:
        table.add_row("held-out loss", f"{val_losses[-1]:.4f}", style="bold")
    table.add_row("unigram entropy", f"{unigram_entropy_nats:.4f} (knowing only how often each token occurs)")
    table.add_row("loss against it", _against_unigram(val_losses[-1] if val_losses else final, unigram_entropy_nats))
    names = sorted(path.name for path in Path(run_dir).iterdir() if not path.name.startswith("."))
    table.add_row("files", f"{run_dir}{os.sep}: {', '.join(names)}")
    return table


def _against_unigram(loss: float, unigram_entropy_nats: float) -> str:
    gain = unigram_entropy_nats - loss
    if math.isnan(gain):
        return "not a number: the run diverged"
    return f"{abs(gain):.4f} {'below' if gain > 0 else 'ABOVE'}"
