"""Show how far a long pass over bytes has come: a bar on a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Advance = Callable[[int], None]
"""Called with the number of bytes done since the last call."""

LINE_EVERY_S = 5.0


def tell(message: str, *, enabled: bool) -> None:
    """Print a line on stderr."""
    if enabled:
        Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def byte_progress(label: str, total_bytes: int, *, enabled: bool) -> Iterator[Advance]:
    """Yield a function to call with each number of bytes done. All output goes to stderr; none unless enabled."""
    console = Console(stderr=True)
    if not enabled:
        yield lambda num_bytes: None
    elif console.is_terminal:
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=console) as bar:
            task = bar.add_task(label, total=total_bytes)
            yield lambda num_bytes: bar.advance(task, num_bytes)
    else:
        lines = _Lines(label, total_bytes, console)
        yield lines.advance
        lines.print()


class _Lines:
    """Plain lines for logs, where a bar would print nothing, or thousands of frames."""

    def __init__(self, label: str, total_bytes: int, console: Console) -> None:
        self._label, self._total_bytes, self._console = label, total_bytes, console
        self._done_bytes = 0
        self._start_s = self._last_line_s = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        self._done_bytes += num_bytes
        if time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self.print()

    def print(self) -> None:
        self._last_line_s = time.monotonic()
        elapsed_s = self._last_line_s - self._start_s
        done_mb, total_mb = self._done_bytes / 1e6, self._total_bytes / 1e6
        self._console.print(
            f"{self._label}: {done_mb:.1f} of {total_mb:.1f} MB, {elapsed_s:.0f} s",
            highlight=False,
            soft_wrap=True,
        )
