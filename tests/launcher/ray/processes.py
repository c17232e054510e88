"""Finding the process of a rank."""

from pathlib import Path

import psutil

from tests.processes import of_folder


def rank(folder: Path, number: int) -> psutil.Process:
    """That of a rank which runs, of the job of a folder."""
    for process in of_folder(folder):
        if process.environ().get("RANK") == str(number) and "foretrain" in process.cmdline():
            return process
    raise AssertionError(f"rank {number} does not run")
