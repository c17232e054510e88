"""Finding the process of a rank."""

from pathlib import Path

import psutil

from tests.processes import command, of_folder, variable


def rank(folder: Path, number: int) -> psutil.Process:
    """That of a rank which runs, of the job of a folder."""
    for process in of_folder(folder):
        if variable(process, "RANK") == str(number) and "foretrain" in command(process):
            return process
    raise AssertionError(f"rank {number} does not run")
