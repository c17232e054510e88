"""Which of several failures is the cause, and how it is shown to the user."""

import os
import signal
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from foretrain.launcher.local.outcome import Exited, Outcome, Raised
from foretrain.launcher.logs import last_lines, log_path
from foretrain.printable import quotable

_TAIL_LINES = 40
_TRACEBACK_VARIABLE = "FORETRAIN_TRACEBACK"


def _suspicion(outcome: Outcome) -> int:
    """A number that is lower for likely causes. Peers that lost a connection, or were aborted, are victims."""
    if isinstance(outcome.report, Raised) and outcome.report.is_communication:
        return 2
    if outcome.report is None and outcome.exit_code == -signal.SIGABRT:
        return 1
    return 0


def first_failure(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The failure that probably caused the others: the earliest one of the most likely kind; None if none failed."""
    failed = [outcome for outcome in outcomes if outcome.failed]
    return min(failed, key=lambda outcome: (_suspicion(outcome), outcome.at_s, outcome.rank), default=None)


def is_decision(outcomes: Collection[Outcome]) -> bool:
    """Whether every rank called sys.exit with the same number: the program chose it, and has printed why."""
    reports = [outcome.report for outcome in outcomes]
    exits = {report.code for report in reports if isinstance(report, Exited) and not report.message}
    return len(exits) == 1 and all(isinstance(report, Exited) for report in reports)


def headline(outcome: Outcome) -> str:
    """A line that says which rank failed, and how."""
    report = outcome.report
    if isinstance(report, Raised):
        return f"rank {outcome.rank} failed: {report.name}: {report.message}".rstrip(": ")
    if outcome.signal_name is not None:
        hint = " (out of memory?)" if outcome.signal_name == "SIGKILL" else ""
        return f"rank {outcome.rank} was killed by {outcome.signal_name}{hint}"
    said = f": {report.message}" if isinstance(report, Exited) and report.message else ""
    # 255 is what multiprocessing reports if the fork server could not.
    hint = " (was the fork server killed?)" if report is None and outcome.exit_code == 255 else ""
    return f"rank {outcome.rank} exited with status {outcome.status}{said}{hint}"


def details(outcome: Outcome, log_dir: Path | None) -> str:
    """What explains the failure best: its traceback, the last lines of the rank's log, or nothing."""
    if isinstance(outcome.report, Raised):
        return outcome.report.traceback
    if log_dir is None or outcome.rank == 0:
        return ""
    return "".join(f"{line}\n" for line in last_lines(log_path(log_dir, outcome.rank), _TAIL_LINES))


def print_failure(failure: Outcome, outcomes: Iterable[Outcome], log_dir: Path | None) -> None:
    """Print the failure on stderr: an error of the user as one line, any other with what explains it.

    If there is a log_dir, the traceback of every rank is kept in its log.
    """
    raised = [outcome for outcome in outcomes if isinstance(outcome.report, Raised)]
    if log_dir is not None:
        for outcome in raised:
            _append_traceback(outcome, log_path(log_dir, outcome.rank))
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    report = failure.report
    wants_traceback = os.environ.get(_TRACEBACK_VARIABLE) == "1"
    if isinstance(report, Raised) and report.is_user_error and report.message and not wants_traceback:
        console.print(Text.assemble(("error: ", "bold red"), (quotable(report.message), "red")))
        where = str(log_path(log_dir, failure.rank)) if log_dir is not None else f"{_TRACEBACK_VARIABLE}=1 shows it"
        console.print(Text(f"(rank {failure.rank}; traceback: {where})", style="dim"))
        return
    console.print(Text(quotable(headline(failure)), style="bold red"))
    console.print(Text(quotable(details(failure, log_dir))), end="")
    others = sorted(outcome.rank for outcome in raised if outcome.rank != failure.rank)
    if others:
        console.print(Text(f"(then ranks {others} failed{f'; see {log_dir}' if log_dir else ''})", style="dim"))


def _append_traceback(outcome: Outcome, log: Path) -> None:
    assert isinstance(outcome.report, Raised)
    with suppress(OSError):  # a full disk may be the failure itself, which must still be printed
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(quotable(outcome.report.traceback))
