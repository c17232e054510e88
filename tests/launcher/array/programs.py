"""Batches for the tests, of commands that are Python programs of a few lines, without imports that take time."""

import sys
from pathlib import Path
from typing import Any

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.array.job_array import JobArray
from foretrain.launcher.array.task import Task

NOTE = (
    "import os, signal, sys, time; "
    "note = lambda word: open({file!r}, 'a').write(f'{{time.monotonic_ns()}} {{word}}\\n')"
)


def task(folder: Path, name: str, program: str) -> Task:
    """A task that runs a program, in which note(word) adds a line to the file of `notes`."""
    start = NOTE.format(file=str(folder / f"notes-{name}"))
    return Task(name, (sys.executable, "-S", "-c", f"{start}; {program}"))


def notes(folder: Path, name: str) -> list[tuple[int, str]]:
    """When (ns) a task noted what, over all its starts."""
    path = folder / f"notes-{name}"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(at), word) for at, _, word in (line.partition(" ") for line in lines)]


def words(folder: Path, name: str) -> list[str]:
    """What a task noted."""
    return [word for _, word in notes(folder, name)]


def most_at_once(folder: Path, names: list[str]) -> int:
    """How many of the tasks ran at the same time, by their notes `begin` and `end`."""
    changes = [(at, {"begin": 1, "end": -1}.get(word, 0)) for name in names for at, word in notes(folder, name)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def job_array(
    folder: Path,
    programs: dict[str, str],
    *,
    at_once: int | None = None,
    ranks: int = 1,
    on_gpus: bool = False,
    **launch: Any,
) -> JobArray:
    """A batch of programs by their names, in folder/"the batch"; none of its processes hides from tests.processes."""
    launch = {"cpus_per_rank": 1, "env": ["PATH", f"TEST_FOLDER={folder}"], "stop_lead_s": 60, **launch}
    return JobArray(
        name="tasks",
        folder=folder / "the batch",
        tasks=tuple(task(folder, name, program) for name, program in programs.items()),
        launch=LaunchConfig(**launch),
        ranks=ranks,
        on_gpus=on_gpus,
        at_once=at_once,
        workdir=folder,
    )
