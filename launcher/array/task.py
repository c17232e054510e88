"""A task, and the file that lists the tasks of a job array, one line each in the syntax of a shell."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TASKS_FILE = "tasks.txt"


@dataclass(frozen=True)
class Task:
    """A command that may be started several times, and finds out itself what is left to do.

    Its exit status has the meaning of a run's: 0: done; 85: start it again; 128 + n, or killed by signal n: it is
    started again too; any other ends it. SIGTERM and SIGUSR2, at any time, ask it to exit with 85.
    """

    name: str
    """A name of letters, digits, `_` and `-`; the files of the task have it."""
    command: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for a name that files cannot have, or a command that does not fit on one line."""
        if re.fullmatch(r"[\w-]+", self.name, re.ASCII) is None:
            raise ValueError(f"task {self.name!r}: choose a name of letters, digits, '_' and '-'")
        if not self.command or any(re.search(r"[\n\r\0]", word) for word in self.command):
            raise ValueError(
                f"task {self.name}: its command is empty, or has a line break, which {TASKS_FILE} cannot hold"
            )


def to_text(tasks: Sequence[Task]) -> str:
    """The content of TASKS_FILE: the name and the command of each task."""
    return "".join(f"{task.name} {shlex.join(task.command)}\n" for task in tasks)


def read(folder: Path) -> list[Task]:
    """The tasks of a job array's folder, in order."""
    lines = (folder / TASKS_FILE).read_text(encoding="utf-8").split("\n")
    words = [shlex.split(line) for line in lines if line]
    return [Task(name, tuple(command)) for name, *command in words]
