"""Progress of long jobs: a bar on a terminal, plain lines in a log. Every room may import this module."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Advance = Callable[[int], None]
"""Called with the number of bytes that were processed since the last call."""

LINE_EVERY_S = 5.0
"""Seconds between two lines about a pass over bytes, where there is no bar."""


def format_duration(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}"


def print_line(text: str, *, console: Console | None = None, enabled: bool = True, style: str = "") -> None:
    """Print plain text as one line, on stderr unless a console is given."""
    if enabled:
        (console or Console(stderr=True)).print(text, highlight=False, markup=False, soft_wrap=True, style=style)


def is_terminal(console: Console) -> bool:
    """Whether a live display may be drawn. Rich alone would draw into a file if FORCE_COLOR is set."""
    return console.is_interactive and console.file.isatty()


class JobProgress:
    """Progress of a job of known work: a bar on a terminal, else the lines that are given; a context manager.

    Work is in any unit that is proportional to time. `label` is shown before the bar and `details` below it; both
    may be changed at any time.
    """

    def __init__(self, total: float, *, label: str = "", console: Console | None = None, keep: bool = False) -> None:
        """`keep`: the bar stays on the terminal when the job has ended."""
        self.total, self.label = total, label
        self.details: Callable[[], Sequence[RenderableType]] = tuple
        self._done = self._skipped = 0.0
        self._started_s = time.monotonic()
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        if is_terminal(self._console):
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2, transient=not keep
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def advance(self, work: float) -> None:
        """Count work that was done now."""
        self._done += work

    def skip(self, work: float) -> None:
        """Count work that took no time now: it was done before, or it will never be done."""
        self._skipped += work

    def restart_clock(self) -> None:
        """Forget the time until now: the work that follows has another speed."""
        self._started_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, or since `restart_clock`."""
        return time.monotonic() - self._started_s

    def time_left(self) -> str:
        """An estimate in words, from the speed so far."""
        left = self.total - self._done - self._skipped
        if left <= 0:
            return "none left"
        if not self._done:
            return "time left unknown"
        return f"about {format_duration(self.elapsed_s * left / self._done)} left"

    def log(self, text: str) -> None:
        """Print a line where there is no bar."""
        if self._live is None:
            self.say(text)

    def say(self, text: str, style: str = "") -> None:
        """Print a line, above the bar if there is one."""
        print_line(text, console=self._console, style=style)

    def _render(self) -> Group:
        completed = self._done + self._skipped
        return Group(bar_line(self.label, completed, self.total, self.elapsed_s, self.time_left()), *self.details())


def bar_line(label: str, completed: float, total: float, elapsed_s: float, left: str) -> Table:
    """One line for a live display: a label, a bar, the time since the start, and `left`, the time that remains."""
    line = Table.grid(padding=(0, 2), expand=True)
    for ratio in (None, 1, None):
        line.add_column(ratio=ratio, no_wrap=True)
    times = Text(f"{format_duration(elapsed_s)} elapsed, {left}", style="dim")
    line.add_row(label, ProgressBar(total=total, completed=completed), times)
    return line


@contextmanager
def byte_progress(label: str, total_bytes: int, *, enabled: bool) -> Iterator[Advance]:
    """Yield a function to call with each number of bytes processed. Prints on stderr, and nothing unless `enabled`."""
    if not enabled:
        yield lambda num_bytes: None
        return
    done_bytes, line_at_s = 0, time.monotonic() + LINE_EVERY_S

    def advance(num_bytes: int) -> None:
        nonlocal done_bytes, line_at_s
        done_bytes += num_bytes
        job.advance(num_bytes)
        job.label = f"{label}: {done_bytes / 1e6:.1f} of {total_bytes / 1e6:.1f} MB"
        if time.monotonic() >= line_at_s:
            line_at_s = time.monotonic() + LINE_EVERY_S
            job.log(f"{job.label}, {job.elapsed_s:.0f} s")

    with JobProgress(total_bytes, label=label, keep=True) as job:
        yield advance
        advance(0)
        job.log(f"{job.label}, {job.elapsed_s:.0f} s")
