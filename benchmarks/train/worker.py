"""The process of one contestant: `python -m benchmarks.train.worker`, which the benchmark starts.

The first line of its standard input is the order to build a contestant, and the next ones are orders of its pace. The
standard output has one answer for each, and all that libraries print goes to the standard error.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from benchmarks.train.contestants import Contestant

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: it sets the signal that a process gets when its parent ends, even while it is stopped."""


def main() -> None:
    """Build a contestant, and let it train."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    if asked["peers"]:
        sys.path.append(asked["peers"])
    try:
        _run(asked, answers)
    except ModuleNotFoundError as error:
        answers.write(json.dumps({"missing": str(error)}) + "\n")
    finally:
        answers.flush()


def _run(asked: dict[str, Any], answers: IO[str]) -> None:
    contestant = Contestant(**asked["contestant"]).load()
    import torch

    from benchmarks.train.pace import Job, Pace
    from benchmarks.train.task import Task

    task = Task(**asked["task"])
    torch.set_num_threads(task.threads)
    pace = Pace(sys.stdin, answers, torch.device(task.device))
    contestant(Job(task, Path(asked["shared"]), Path(asked["own"]), pace))


if __name__ == "__main__":
    main()
