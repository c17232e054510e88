"""The thread that notices, on each rank, that a step is late, and ends a run that hangs with a report.

The ranks do not talk to each other as long as all is well. A rank whose phase is late writes a report of itself into a
folder of the run, which all ranks see, and so do its peers, again and again until they continue. A rank that writes
nothing is stopped or gone. The lowest rank that writes says what the reports show, and if the run hangs, every rank
ends with EXIT_HANG.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from foretrain.files import write_atomically
from foretrain.trainer.run.exit_status import EXIT_HANG
from foretrain.trainer.watch.analysis import find, hangs
from foretrain.trainer.watch.limits import Limits
from foretrain.trainer.watch.reports import RankReport, file_name, fresh_reports
from foretrain.trainer.watch.text import hang_text, slow_text, unreported_text

REPORT = "report.txt"
_MAX_TICK_S = 1.0
_MAX_ROUND_S = 20.0
"""Seconds between two reports of a rank of a run that is late."""
_SILENT_ROUNDS = 2.5
"""A rank that has written no report for that many rounds is silent."""


class Watcher:
    """Watches the phases of one rank, in a thread, until it is closed.

    `folder`: that of this session, the same on all ranks; it is made when it is needed. `hosts`: the host of each rank.
    `snapshot(step, phase, elapsed_s, is_late=...)` returns the rank's report.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        hosts: Sequence[str],
        limits: Limits,
        snapshot: Callable[..., RankReport],
    ) -> None:
        self._folder, self._rank, self._hosts = folder, rank, hosts
        self._limits, self._snapshot = limits, snapshot
        self._tick_s = min(_MAX_TICK_S, limits.floor_s / 10)
        self._round_s = min(_MAX_ROUND_S, limits.floor_s / 2)
        self._lived_s = 0.0
        """Seconds in which this process ran. A machine that sleeps, or a run that is suspended, does not hang."""
        self._phase, self._step, self._began_s, self._limit_s = "", 0, 0.0, float("inf")
        self._suspended = "", 0.0, float("inf")
        """While other work interrupts a phase: the phase, its seconds so far, and its limit."""
        self._num_phases = 0
        self._suspects: Sequence[int] | None = None
        """The causes of a hang in the round before; None if it was none."""
        self._has_said_slow = False
        self._said_in_phase = -1
        """The number of the phase in which this rank has said that its report cannot be written."""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)

    def start(self, phase: str, step: int) -> None:
        """Begin to watch, in a first phase."""
        self._set_phase(phase, step)
        self._thread.start()

    def enter(self, phase: str, step: int) -> None:
        """Note that the phase before has ended, and that another begins."""
        self._limits.add(self._phase, self._lived_s - self._began_s)
        self._set_phase(phase, step)

    def suspend(self, work: str) -> None:
        """Note that other work begins in the phase, until `resume`: its time does not count for the phase."""
        limit_s = self._limits.limit_s(work)
        with self._lock:
            self._suspended = self._phase, self._lived_s - self._began_s, self._limit_s
            self._phase, self._began_s, self._limit_s = work, self._lived_s, limit_s
            self._num_phases += 1

    def resume(self) -> None:
        """Note that the work has ended, and the phase continues."""
        with self._lock:
            self._phase, elapsed_s, self._limit_s = self._suspended
            self._began_s = self._lived_s - elapsed_s
            self._num_phases += 1

    def close(self) -> None:
        """Stop watching. May be called twice, and without `start`."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _set_phase(self, phase: str, step: int) -> None:
        limit_s = self._limits.limit_s(phase)
        with self._lock:
            self._phase, self._step, self._began_s, self._limit_s = phase, step, self._lived_s, limit_s
            self._num_phases += 1

    def _watch(self) -> None:
        looked_s = 0.0
        while not self._pause():
            is_late = self._lived_s - self._began_s > self._limit_s
            if is_late or self._lived_s - looked_s > self._round_s / 4:
                looked_s = self._lived_s
                try:
                    if is_late or fresh_reports(self._folder, self._round_s):
                        self._report()
                except OSError as error:  # a disk that is full, or that does not answer now: the next round tries again
                    self._say_unreported(error)

    def _pause(self) -> bool:
        """Wait for a tick; return whether the watcher was closed meanwhile."""
        before_s = time.monotonic()
        is_closed = self._closed.wait(self._tick_s)
        with self._lock:
            self._lived_s += min(time.monotonic() - before_s, 2 * self._tick_s)
        return is_closed

    def _report(self) -> None:
        """Report this rank in each round until it continues, or end it if the run hangs."""
        number = self._num_phases
        self._suspects, self._has_said_slow = None, False
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._report_until(number)
        finally:
            with suppress(OSError):
                (self._folder / file_name(self._rank)).unlink(missing_ok=True)

    def _report_until(self, number: int) -> None:
        """Report in each round until the phase with this number has ended."""
        before = None
        while not self._continues(number):
            elapsed_s = self._lived_s - self._began_s
            report = self._snapshot(self._step, self._phase, elapsed_s, is_late=elapsed_s > self._limit_s)
            report = replace(report, is_moving=before is None or report.position != before.position)
            report.write(self._folder)
            before, round_began_s = report, self._lived_s
            while not self._continues(number) and self._lived_s - round_began_s < self._round_s:
                self._pause()
                if (self._folder / REPORT).exists():
                    self._end()
            ranks = fresh_reports(self._folder, _SILENT_ROUNDS * self._round_s)
            if ranks[:1] == [self._rank] and not self._continues(number):
                self._judge(ranks)

    def _say_unreported(self, error: OSError) -> None:
        """Say where this rank is, once in a phase that is late, since its report cannot be written."""
        elapsed_s = self._lived_s - self._began_s
        if elapsed_s > self._limit_s and self._said_in_phase != self._num_phases:
            self._said_in_phase = self._num_phases
            report = self._snapshot(self._step, self._phase, elapsed_s, is_late=True)
            with suppress(OSError):  # the terminal may be a file on the same disk
                print(unreported_text(report, error), file=sys.stderr, end="", flush=True)

    def _judge(self, ranks: Sequence[int]) -> None:
        """Say what the reports show, once, and end this rank if the run hangs."""
        try:
            reports = {rank: RankReport.read(self._folder / file_name(rank)) for rank in ranks}
        except FileNotFoundError:  # a rank has removed its report, since it continues
            return
        finding = find(reports, len(self._hosts))
        before, self._suspects = self._suspects, finding.causes if hangs(finding, reports) else None
        if self._suspects is not None:
            if self._suspects != before:  # a rank that has just entered another phase has no report for a moment
                return
            text = hang_text(finding, reports, self._hosts)
            with suppress(OSError):  # such as a full disk, on which the terminal may be a file, too
                write_atomically(self._folder / REPORT, text)
            with suppress(OSError):
                print(text, file=sys.stderr, end="", flush=True)
            self._end()
        if not self._has_said_slow and not any(report.is_moving for report in reports.values()):
            self._has_said_slow = True
            with suppress(OSError):
                print(slow_text(finding, reports, self._hosts), file=sys.stderr, end="", flush=True)

    def _end(self) -> NoReturn:
        with suppress(OSError):
            report = self._folder / REPORT
            print(f"the run hangs and ends, to be started again: see {report}", file=sys.stderr, flush=True)
        os._exit(EXIT_HANG)

    def _continues(self, number: int) -> bool:
        """Whether the main thread has entered another phase than that number, or the session has ended."""
        return self._num_phases != number or self._closed.is_set()
