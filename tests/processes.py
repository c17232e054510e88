"""Finds and counts what a test has left running."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, or could."""
    try:
        # An orphan that ended stays a zombie where nobody reaps.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def runs(pid: int) -> bool:
    """Whether there is such a process, and it is alive."""
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def snapshot() -> set[psutil.Process]:
    """All processes that live now, but for this one."""
    return {process for process in psutil.process_iter() if process.pid != os.getpid() and is_alive(process)}


def of_folder(folder: Path) -> list[psutil.Process]:
    """Those that live, and name the folder in their command, their environment, their own folder or their files."""
    return [process for process in snapshot() if mentions(folder)(process)]


def command(process: psutil.Process) -> list[str]:
    """The words of its command line; none of one that has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def variable(process: psutil.Process, name: str) -> str | None:
    """One of its environment; none of one that has ended meanwhile."""
    try:
        return process.environ().get(name)
    except psutil.Error:
        return None


def mentions(folder: Path) -> Callable[[psutil.Process], bool]:
    """Whether a process names the folder."""

    def belongs(process: psutil.Process) -> bool:
        try:
            told = [*process.cmdline(), *process.environ().values(), process.cwd()]
            return any(str(folder) in text for text in (*told, *(file.path for file in process.open_files())))
        except psutil.Error:
            return False

    return belongs


def left_behind(
    before: set[psutil.Process], belongs: Callable[[psutil.Process], bool], within_s: float = 5.0
) -> list[psutil.Process]:
    """The processes that `belongs` says are ours, that were not there `before`, and do not end within that time."""
    return _left(lambda: [process for process in snapshot() - before if belongs(process)], within_s)


def assert_none(folder: Path, within_s: float = 10.0) -> None:
    """That no process names the folder, at the latest after that time."""
    told = [(process.pid, command(process)) for process in _left(lambda: of_folder(folder), within_s)]
    assert told == [], f"still there: {told}"


def assert_gone(processes: Iterable[psutil.Process], within_s: float = 5.0) -> None:
    """That none of them lives, at the latest after that time."""
    assert _left(lambda: [process for process in processes if is_alive(process)], within_s) == []


def _left(living: Callable[[], list[psutil.Process]], within_s: float) -> list[psutil.Process]:
    deadline_s = time.monotonic() + within_s
    while (left := living()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left
