"""Commands that take minutes: their output goes to a log, and its last line is shown while they run."""

import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gpu.outcome import last_lines
from benchmarks.processes import in_own_group
from foretrain.printable import printable
from foretrain.progress import format_duration, print_line

SHOW_EVERY_S = 20.0
POLL_S = 0.2
MAX_SHOWN = 100
"""Characters of a line of a log that are shown."""


class CommandError(RuntimeError):
    """A command has failed; the message has the end of its log."""


def run(command: Sequence[str], log: Path, label: str, variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, and show how far it is. Raises CommandError if its exit status is not 0."""
    with started(command, log, variables) as process:
        wait_until(lambda: process.poll() is not None, log, label)
    if process.returncode:
        raise CommandError(f"{label}: exit status {process.returncode}: {end_of(log)}")


@contextmanager
def started(
    command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process whose output goes to `log`. It and all that it has started are killed when the block ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(variables or {})}
    with log.open("wb") as output, in_own_group(command, output, environment) as process:
        yield process


def wait_until(condition: Callable[[], bool], log: Path, label: str, limit_s: float = math.inf) -> None:
    """Wait for a condition, and print the last line of the log now and then.

    Raises CommandError if it does not hold within `limit_s` seconds.
    """
    started_s = time.monotonic()
    shown_s = started_s
    while not condition():
        if time.monotonic() - started_s >= limit_s:
            raise CommandError(f"{label}: not ready after {limit_s:g} s: {end_of(log)}")
        time.sleep(POLL_S)
        if time.monotonic() - shown_s >= SHOW_EVERY_S:
            shown_s = time.monotonic()
            print_line(f"{label}, {format_duration(shown_s - started_s)}: {_last_line(log)}")


def end_of(log: Path) -> str:
    """The last lines of a log in one line, without names of hosts, users and folders."""
    return " | ".join(last_lines(log.read_text(encoding="utf-8", errors="replace"))[-5:])


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 1000))
        lines = file.read().decode(errors="replace").split()
    return printable(" ".join(lines)[-MAX_SHOWN:])
