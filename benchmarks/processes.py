"""Programs that a benchmark starts, of which nothing is left when the benchmark continues."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil


@contextmanager
def in_own_group(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], folder: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a process in a group of its own, whose output goes to `log`, with this complete environment.

    It and all that it has started are killed when the block ends.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_group(process)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a command's process group by SIGKILL, and wait until it and all that it started are gone."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ranks that are in another group end when their launcher has ended. Until then they hold their memory on the GPU.
    _, left = psutil.wait_procs(family, timeout=10)
    for each in left:
        with suppress(psutil.NoSuchProcess):  # it has ended just now
            each.kill()
    psutil.wait_procs(left, timeout=10)
