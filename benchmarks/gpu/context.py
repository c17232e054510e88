"""What a check gets: the device, the number of ranks, folders and time; and how it runs commands."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.gpu.budget import Budget
from benchmarks.processes import in_own_group

ROOT = Path(__file__).parents[2]
"""The root of the repository."""
FORETRAIN = ("-m", "foretrain")
POLL_S = 0.05

# A rank that some launcher started must not make its children ranks; the other two change the output.
_FOREIGN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "FORCE_COLOR", "COLUMNS")


class CheckFailedError(Exception):
    """A check has found that something is wrong; the message says what. `measured` is what it found before."""

    def __init__(self, message: str, measured: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.measured = dict(measured or {})


@dataclass(frozen=True)
class Context:
    """What a check may use."""

    device: Literal["cuda", "cpu"]
    num_ranks: int
    """Ranks to use, one for each GPU: 1, 2, 4 or 8."""
    gpu: str
    """Name of the GPUs; "" on CPUs."""
    folder: Path
    """The check's own folder, empty when it starts."""
    data: Path
    """The corpus."""
    budget: Budget
    """The check's time."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What commands get in addition to this program's environment."""

    @property
    def log(self) -> Path:
        """The output of all commands of the check."""
        return self.folder / "output.log"

    @property
    def on_gpus(self) -> bool:
        """Whether ranks use GPUs."""
        return self.device == "cuda"

    def run(self, *arguments: str) -> None:
        """Run `python ARGUMENTS` and wait for its end. Raises CheckFailedError if its status is not 0."""
        with self.started(*arguments) as process:
            self.wait_until(lambda: process.poll() is not None)
        if process.returncode != 0:
            raise CheckFailedError(f"`{_shown(arguments)}` ended with status {process.returncode}")

    @contextmanager
    def started(self, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start `python ARGUMENTS` in a process group of its own; what is left of it at the end is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        variables = {**_environment(), **self.variables}
        with self.log.open("ab") as log, in_own_group([sys.executable, *arguments], log, variables, ROOT) as process:
            yield process

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises OutOfTimeError or TooSlowError if the time ends before."""
        while not condition():
            now_s = time.monotonic()
            if self.budget.left_s(now_s) <= 0:
                raise self.budget.error(now_s)
            time.sleep(POLL_S)


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**ours, "PYTHONPATH": os.pathsep.join(paths)}


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(("python", *arguments[:4], *(["..."] if len(arguments) > 4 else [])))
