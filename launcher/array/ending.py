"""How a task ended: whether it is started again, and the file that says that it is not.

Batch scripts ask with `python -m foretrain.launcher.array.ending FOLDER NAME ...`, Ray's driver by the functions. Each
end is a line of FOLDER/starts/NAME.jsonl.
"""

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from foretrain.launcher import records
from foretrain.launcher.restart import EXIT_SIGNAL, asks_for_restart
from foretrain.trainer.exit_status import EXIT_DONE, EXIT_RESUME

ENDED = "ended"
"""The folder of a file NAME.json for each task that will not be started again: {"status": its exit status}."""
STARTS = "starts"
"""And of one NAME.jsonl for each task, a line for each start that ended."""


def log_path(folder: Path, name: str) -> Path:
    """What a task prints; later starts write on below."""
    return folder / "logs" / f"{name}.log"


def ended_path(folder: Path, name: str) -> Path:
    """The file that is there once a task will not be started again."""
    return folder / ENDED / f"{name}.json"


def status_of(folder: Path, name: str) -> int | None:
    """The status with which a task ended for good; None: it has not."""
    try:
        return json.loads(ended_path(folder, name).read_text(encoding="utf-8"))["status"]
    except FileNotFoundError:
        return None


def record_end(folder: Path, name: str, job: str, status: int, max_starts: int) -> tuple[bool, str]:
    """Note that a start of a task ended; return whether it is to be started again, and that in words.

    job: a later job of the same task is not blamed for this one. max_starts: so many times in a row it may be killed.
    """
    record = folder / STARTS / f"{name}.jsonl"
    record.parent.mkdir(exist_ok=True)
    records.append(record, {"job": job, "status": status})
    ends = [entry["status"] for entry in reversed(records.entries(record)) if entry["job"] == job]
    num_killed = len([*takewhile(lambda end: end >= EXIT_SIGNAL, ends)])
    if status == EXIT_RESUME:
        return True, "stopped when asked to: is started again"
    if asks_for_restart(status) and num_killed < max_starts:
        return True, f"was killed (status {status}): is started again"
    _write(ended_path(folder, name), {"status": status})
    if status == EXIT_DONE:
        return False, "done"
    if not asks_for_restart(status):
        return False, f"failed with status {status}: see above"
    times = f"{num_killed} times in a row" if num_killed > 1 else "once"
    return False, f"was killed {times} (status {status}): raise launch.max_starts, or give it more memory or time"


def _write(path: Path, values: dict[str, int]) -> None:
    """All of it or nothing: others read it while it is written."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(values) + "\n", encoding="utf-8")
    new.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """What a batch script asks: exits with 0 where the task is to be started again, else with 1, and says why."""
    parser = ArgumentParser(prog="foretrain.launcher.array.ending", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--job", required=True)
    parser.add_argument("--max-starts", type=int, required=True)
    parser.add_argument("--status", type=int, required=True)
    asked = parser.parse_args(arguments)
    again, words = record_end(asked.folder, asked.name, asked.job, asked.status, asked.max_starts)
    print(words)
    return 0 if again else 1


if __name__ == "__main__":
    sys.exit(main())
