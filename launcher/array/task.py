"""A task, and the file that lists those of a job array: a line for each, as a shell would take it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TASKS_FILE = "tasks.txt"


@dataclass(frozen=True)
class Task:
    """A command that may be started several times: it finds out itself what is left to do.

    Its exit status is that of a run: 0 is done; 85 asks to be started again; after 128 + n, or a death of signal n, it
    is started again too; all others are its end. It may get SIGTERM and SIGUSR2 at any time, which ask for 85.
    """

    name: str
    """Of letters, digits, `_` and `-`: its files are called so."""
    command: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be a file's name, or stand on one line."""
        if re.fullmatch(r"[\w-]+", self.name, re.ASCII) is None:
            raise ValueError(f"task {self.name!r}: choose a name of letters, digits, '_' and '-'")
        if not self.command or any(re.search(r"[\n\r\0]", word) for word in self.command):
            raise ValueError(
                f"task {self.name}: its command is empty, or has a line break, which {TASKS_FILE} cannot hold"
            )


def to_text(tasks: Sequence[Task]) -> str:
    """What TASKS_FILE holds: each task's name and command."""
    return "".join(f"{task.name} {shlex.join(task.command)}\n" for task in tasks)


def read(folder: Path) -> list[Task]:
    """The tasks of a job array's folder, in their order."""
    lines = (folder / TASKS_FILE).read_text(encoding="utf-8").split("\n")
    words = [shlex.split(line) for line in lines if line]
    return [Task(name, tuple(command)) for name, *command in words]
