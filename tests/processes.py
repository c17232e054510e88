"""Counts what a test has left running."""

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def snapshot() -> set[psutil.Process]:
    """All processes that live now, zombies left out."""
    return {process for process in psutil.process_iter() if is_alive(process)}


def left_behind(
    before: set[psutil.Process], belongs: Callable[[psutil.Process], bool], within_s: float = 5.0
) -> list[psutil.Process]:
    """The processes that `belongs` says are ours, that were not there `before`, and do not end within that time."""
    deadline_s = time.monotonic() + within_s
    while left := [process for process in snapshot() - before if belongs(process)]:
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.1)
    return left


def mentions(folder: Path) -> Callable[[psutil.Process], bool]:
    """Whether a process has a folder's path in its command, its environment, its own folder or its open files."""

    def belongs(process: psutil.Process) -> bool:
        try:
            told = [*process.cmdline(), *process.environ().values(), process.cwd()]
            return any(str(folder) in text for text in (*told, *(file.path for file in process.open_files())))
        except psutil.Error:
            return False

    return belongs


def descends_from(ancestor: psutil.Process) -> Callable[[psutil.Process], bool]:
    """Whether a process was started by another, or by what that started; one that lost its parent does not tell."""

    def belongs(process: psutil.Process) -> bool:
        try:
            return ancestor in process.parents()
        except psutil.Error:
            return False

    return belongs


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs, or could."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
