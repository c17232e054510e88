"""Runs a Ray cluster on this machine until stdin is closed, which happens at the latest when its owner ends.

Usage: python -m foretrain.launcher.ray.cluster_guard FOLDER ARGUMENTS ... (the arguments of `ray start`). Ray's own
processes do not all end if `ray start` is killed.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TERM_S = 20.0
KILL_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run the cluster, end it, remove its folder, and return the status of `ray start`."""
    folder = Path(arguments[0])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mine = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    mine["TMPDIR"] = str(folder)  # Ray leaves files there, and the variable marks the processes of its jobs
    mine["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # for Ray, the machine then has the address 127.0.0.1 alone
    mine["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # else it waits for actors without an owner
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments[1:]], env=mine, stdin=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
            pass
        return process.poll() or 0
    finally:
        _stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """End the cluster in Ray's order, then kill what is left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(TERM_S)
    deadline_s = time.monotonic() + KILL_S
    while (left := _processes(folder)) and time.monotonic() < deadline_s:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.05)


def _processes(folder: Path) -> list[int]:
    """Process ids in this session, as Ray's own, or with the folder as TMPDIR, as those of jobs."""
    mark = b"TMPDIR=" + os.fsencode(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            is_job = mark in (entry / "environ").read_bytes().split(b"\0")
            if state != "Z" and (int(session) == os.getsid(0) or is_job):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
