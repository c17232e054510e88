"""Where studies print their tables, and how they show how far they have come."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def console_for_tables() -> Console:
    """Standard output; wide enough for a table where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


class WorkBar:
    """How far models of known work have come: a bar on a terminal, elsewhere a line for each; a context manager."""

    def __init__(self, num_models: int, total_work: float, console: Console | None = None) -> None:
        """`total_work`: of all models, in any unit that goes as the time that they take."""
        self._console = console or Console(stderr=True)
        self._num_models, self._num_done = num_models, 0
        self._total_work, self._done_work = total_work, 0.0
        self._started_s = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total_work)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def restart_clock(self) -> None:
        """What has passed until now says nothing of the time that is left."""
        self._started_s = time.monotonic()

    def describe(self, what: str) -> None:
        """Show what runs now, beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, description=what)

    def advance(self, work: float, line: str) -> None:
        """A model has ended; `line` says how, where there is no bar."""
        self._num_done += 1
        self._done_work += work
        if self._bar is not None:
            self._bar.advance(self._task, work)
            return
        left_s = (time.monotonic() - self._started_s) * (self._total_work / self._done_work - 1)
        end = f"about {left_s:.0f} s left" if self._num_done < self._num_models else "the last"
        self.say(f"{self._num_done}/{self._num_models}  {line}, {end}")

    def say(self, text: str) -> None:
        """Print a line, unless there is a bar."""
        if self._bar is None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
