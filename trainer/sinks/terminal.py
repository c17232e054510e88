"""The sink that shows a run on the terminal: a live display, or plain lines where there is no terminal."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from foretrain.printable import quotable
from foretrain.progress import bar_line, is_terminal
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.lines import LinesSink


class TerminalSink(LinesSink):
    """Shows the steps of one session of a run.

    On a terminal it keeps two lines up to date at the bottom, in the place of the lines of steps and evaluations.
    Elsewhere, as in the log of a cluster job, it prints all lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    def open(self, session: Session) -> None:
        super().open(session)
        self._start_step = session.start_step
        self._held_out: HeldOutLoss | None = None
        self._started_s = time.monotonic()
        self._live: Live | None = None
        if is_terminal(self._console):
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start(refresh=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()
        else:
            super().close()

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._held_out = loss
        if not self._live:
            super().evaluation(step, loss)

    def rewind(self, step: int) -> None:
        super().rewind(step)
        self._start_step = step

    def message(self, text: str) -> None:
        self._console.print(quotable(text), soft_wrap=True, markup=False, highlight=False)

    def _print_step(self) -> None:
        if not self._live:
            super()._print_step()

    def _render(self) -> Group:
        latest: Mapping[str, Any] = self._latest
        left = f"{self._time_left()} left"
        elapsed_s = time.monotonic() - self._started_s
        bar = bar_line(self._count(latest["step"]), latest["step"], self._total_steps, elapsed_s, left)
        if latest["step"] == self._start_step:
            return Group(bar, Text("the first step is the slowest ...", style="dim"))
        values = self._values()
        if self._held_out is not None:
            values.insert(1, f"held-out {self._held_out}")
        return Group(bar, Text("  ".join(values), style="cyan", no_wrap=True, overflow="ellipsis"))
