"""Whether a task that ended is started again, and the file that says that it is not.

Batch scripts run `python -m foretrain.launcher.array.ending FOLDER NAME ...`; Ray's driver calls the functions. Each
end is a line of FOLDER/starts/NAME.jsonl.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from foretrain import records
from foretrain.files import write_atomically
from foretrain.launcher.restart import asks_for_restart, patiently, was_cut_short
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_HANG, EXIT_RESUME

ENDED = "ended"
"""The folder that has a file NAME.json for each task that will not be started again: {"status": its exit status}."""
STARTS = "starts"
"""The folder that has a file NAME.jsonl for each task, with a line for each start that ended."""


def log_path(folder: Path, name: str) -> Path:
    """The log of a task; later starts append to it."""
    return folder / "logs" / f"{name}.log"


def ended_path(folder: Path, name: str) -> Path:
    """The file that exists once a task will not be started again."""
    return folder / ENDED / f"{name}.json"


def status_of(folder: Path, name: str) -> int | None:
    """The exit status of a task that will not be started again; None: it waits or runs."""
    try:
        return json.loads(ended_path(folder, name).read_text(encoding="utf-8"))["status"]
    except FileNotFoundError:
        return None


def record_end(folder: Path, name: str, job: str, status: int, max_starts: int) -> tuple[bool, str]:
    """Record that a start of a task ended; return whether to start it again, and the reason in words.

    Waits for a fault of the file system that passes, and raises OSError if it lasts. Only the starts of `job` count.
    After `max_starts` starts in a row that were killed or hung, the task is given up.
    """
    record = folder / STARTS / f"{name}.jsonl"
    patiently(lambda: record.parent.mkdir(exist_ok=True))
    patiently(lambda: records.append(record, {"job": job, "status": status}))
    entries = patiently(lambda: records.entries(record))
    ends = [entry["status"] for entry in reversed(entries) if entry["job"] == job]
    num_killed = len([*takewhile(was_cut_short, ends)])
    if status == EXIT_RESUME:
        return True, "stopped when asked to: is started again"
    how = "hung" if status == EXIT_HANG else "was killed"
    if asks_for_restart(status) and num_killed < max_starts:
        return True, f"{how} (status {status}): is started again"
    path = ended_path(folder, name)
    patiently(lambda: path.parent.mkdir(exist_ok=True))
    patiently(lambda: write_atomically(path, json.dumps({"status": status}) + "\n"))
    if status == EXIT_DONE:
        return False, "done"
    if not asks_for_restart(status):
        return False, f"failed with status {status}: see above"
    times = f"{num_killed} times in a row" if num_killed > 1 else "once"
    return False, f"{how} {times} (status {status}): raise launch.max_starts, or give it more memory or time"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reason in words; exit with 0 if the task is to be started again, else with 1."""
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
