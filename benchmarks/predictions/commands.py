"""The commands of the framework that the benchmark runs.

Short ones run in this process, and share its imports; runs are trained in processes of their own, several at a time.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType

import typer

from benchmarks.predictions.corpora import inputs_of
from foretrain.verbs.app import app as command_line

BASE = Path(__file__).with_name("base.yaml")
"""What all runs share."""
POLL_S = 0.5


def foretrain(*arguments: str, quiet: bool = False) -> None:
    """Run a command; `quiet`: without what it prints. Raises typer.Exit with its status if that is not 0."""
    with redirect_stdout(StringIO()) if quiet else nullcontext():
        status = command_line(list(arguments), standalone_mode=False)
    if status:
        raise typer.Exit(status)


def corpus(name: str, vocab_size: int, work: Path) -> Path:
    """The folder of a corpus, which is prepared if it is not there yet."""
    out = work / "data" / f"{name}_{vocab_size}"
    if not out.exists():
        inputs = inputs_of(name, work / "texts")
        foretrain("prepare", *inputs, "--vocab-size", str(vocab_size), "--out", str(out), "--reuse")
    return out


def train_all(commands: Mapping[str, Sequence[str]], jobs: int, logs: Path, on_end: Callable[[str, int], None]) -> None:
    """Run commands by name, each with one thread, `jobs` at a time. `on_end` gets the name and the exit status of each.

    If this process is asked to stop, so are the commands, which write a checkpoint; then typer.Exit is raised.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = deque(commands.items()), dict[str, subprocess.Popen[bytes]]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stopped_by: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped_by.append(signum)

    previous = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        while (waiting or running) and not stopped_by:
            while waiting and len(running) < jobs:
                name, arguments = waiting.popleft()
                with (logs / f"{name}.log").open("ab") as log:
                    running[name] = subprocess.Popen(
                        [sys.executable, "-m", "foretrain", *arguments],
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,
                    )
            time.sleep(POLL_S)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    on_end(name, process.returncode)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.wait()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if stopped_by:
        raise typer.Exit(128 + stopped_by[0])
