"""Finds the processes that a test has left running."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

DEADLINE_S = 300.0
"""How long a test waits for what an idle machine does in seconds. Waiting ends as soon as the condition holds."""


def is_alive(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        # An orphan that has ended stays a zombie if no process reaps it.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def runs(pid: int) -> bool:
    """Whether there is a process with that id, and it is alive."""
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))


def snapshot() -> set[psutil.Process]:
    """All processes that are alive, without this one."""
    return {process for process in psutil.process_iter() if process.pid != os.getpid() and is_alive(process)}


def of_folder(folder: Path) -> list[psutil.Process]:
    """The processes that name the folder in their command, environment, working directory or open files."""
    return [process for process in snapshot() if mentions(folder)(process)]


def command(process: psutil.Process) -> list[str]:
    """The words of a process's command line; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def variable(process: psutil.Process, name: str) -> str | None:
    """A variable of a process's environment; None if it is not set or the process has ended."""
    try:
        return process.environ().get(name)
    except psutil.Error:
        return None


def mentions(folder: Path) -> Callable[[psutil.Process], bool]:
    """Whether a process names the folder."""

    def belongs(process: psutil.Process) -> bool:
        try:
            texts = [*process.cmdline(), *process.environ().values(), process.cwd()]
            return any(str(folder) in text for text in (*texts, *(file.path for file in process.open_files())))
        except psutil.Error:
            return False

    return belongs


def left_behind(
    before: set[psutil.Process], belongs: Callable[[psutil.Process], bool], within_s: float = DEADLINE_S
) -> list[psutil.Process]:
    """The processes that `belongs` accepts, that did not exist `before`, and that do not end within that time."""
    return _left(lambda: [process for process in snapshot() - before if belongs(process)], within_s)


def assert_none(folder: Path, within_s: float = DEADLINE_S) -> None:
    """Assert that no process names the folder, at the latest after `within_s` seconds."""
    left = [(process.pid, command(process)) for process in _left(lambda: of_folder(folder), within_s)]
    assert left == [], f"still there: {left}"


def assert_gone(processes: Iterable[psutil.Process], within_s: float = DEADLINE_S) -> None:
    """Assert that none of the processes lives, at the latest after `within_s` seconds."""
    assert _left(lambda: [process for process in processes if is_alive(process)], within_s) == []


def _left(living: Callable[[], list[psutil.Process]], within_s: float) -> list[psutil.Process]:
    deadline_s = time.monotonic() + within_s
    while (left := living()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left


def wait_until(condition: Callable[[], bool], what: str = "the condition", deadline_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s:g} s for {what}"
        time.sleep(0.02)
