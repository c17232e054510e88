"""The logs of ranks and tasks, under every launcher."""

import re
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from foretrain.trainer.run.folder import LOGS

_START_LINE = re.compile(r"^--- (?:rank|task) .*\n", re.MULTILINE)
"""The line that each start of a rank or task adds to its log."""


def log_path(log_dir: Path, rank: int) -> Path:
    """The log of a rank; later starts append to it."""
    return log_dir / f"rank-{rank:03d}.log"


def log_files(folder: Path) -> list[Path]:
    """All logs of a run or of a job array."""
    return sorted((folder / LOGS).glob("*.log"))


def open_log(log: Path, title: str) -> FileIO:
    """Open a log to append to it, without a buffer, and note there that `title`, such as "rank 3", starts."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("ab", buffering=0)
    file.write(f"--- {title} starts, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    return file


def last_lines(log: Path, number: int) -> list[str]:
    """The last lines that the newest start of a rank or task has printed, after a line that names the log."""
    text = ""
    with suppress(OSError):  # what is shown because of them is the failure of a rank
        text = log.read_text(encoding="utf-8", errors="replace")
    return [f"The last lines of {log}:", *_START_LINE.split(text)[-1].splitlines()[-number:]]
