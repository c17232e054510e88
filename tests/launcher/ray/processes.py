"""Counting the processes that name a folder: those of a cluster, or of a job."""

import time
from pathlib import Path

import psutil


def of_folder(folder: Path) -> list[psutil.Process]:
    """Those that run, and have the folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            # An orphan that ended stays a zombie where nobody reaps.
            if process.status() != psutil.STATUS_ZOMBIE and names(process, folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def names(process: psutil.Process, folder: Path) -> bool:
    texts = [*process.cmdline(), *process.environ().values()]
    return any(str(folder) in text for text in texts)


def rank(folder: Path, number: int) -> psutil.Process:
    """That of a rank which runs."""
    for process in of_folder(folder):
        if process.environ().get("RANK") == str(number) and "foretrain" in process.cmdline():
            return process
    raise AssertionError(f"rank {number} does not run")


def assert_none(folder: Path, within_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + within_s
    while (left := of_folder(folder)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    told = [(process.pid, process.ppid(), process.cmdline()) for process in left if process.is_running()]
    assert left == [], f"still there: {told}"
