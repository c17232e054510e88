"""A Ray actor that starts one rank as a process of its own, passes signals on to it, and tells how it ended."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import ray
import ray.util

from foretrain.launcher import rendezvous
from foretrain.launcher.logs import LOG_START
from foretrain.launcher.ray.places import Place
from foretrain.launcher.restart import EXIT_SIGNAL

NOT_STARTED = 127
"""The status of a rank whose program could not be started, as in a shell."""
_RAYLET_POLL_S = 0.5
CONCURRENCY = 4
"""Calls at once: `run` takes as long as the rank lives."""


@dataclass(frozen=True)
class RankProcess:
    """The process of a rank."""

    rank: int
    python: str
    command: tuple[str, ...]
    env: dict[str, str]
    """All of it."""
    workdir: str
    log: Path

    @property
    def log_start(self) -> str:
        """How the first line of its log begins."""
        return f"{LOG_START}{self.rank}"


class Agent:
    """One for each rank, and for each of its starts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._lock = threading.Lock()
        threading.Thread(target=_end_with_raylet, args=(os.getppid(),), name="end-with-raylet", daemon=True).start()

    def place(self) -> Place:
        """Where Ray has put this actor."""
        context = ray.get_runtime_context()
        devices = tuple(str(device) for device in context.get_accelerator_ids().get("GPU", []))
        return Place(ray.util.get_node_ip_address(), context.get_node_id(), devices, os.getpid())

    def free_port(self, seed: int) -> int:
        """A port of this node."""
        return rendezvous.free_port(seed)

    def run(self, what: RankProcess) -> int:
        """Start the rank, wait for its end, and return its status: 128 + n for signal n."""
        # The rank dies with the thread that starts it, so it is this one that waits for it.
        what.log.parent.mkdir(parents=True, exist_ok=True)
        with what.log.open("ab", buffering=0) as log:
            log.write(f"{what.log_start} starts, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            try:
                process = _start(what, log.fileno())
            except OSError as error:
                log.write(f"cannot be started: {error}\n".encode())
                return NOT_STARTED
        with self._lock:
            self._process = process
        for signum in self._early:
            self.signal(signum)
        watcher = _kill_group_with_this_process(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            # Until it is reaped no other process can have its number.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(BrokenPipeError), watcher:
                watcher.write(b"\n")
            status = process.wait()
            self._process = None
        return status if status >= 0 else EXIT_SIGNAL - status

    def signal(self, signum: int) -> None:
        """Send a signal to the rank; SIGKILL to the processes that it started, too."""
        with self._lock:
            if self._process is None:
                self._early.append(signum)
                return
            with suppress(ProcessLookupError):
                (os.killpg if signum == signal.SIGKILL else os.kill)(self._process.pid, signum)


def _end_with_raylet(raylet: int) -> None:
    """End this process when that which runs the node has ended: to Ray the node is gone, and its ranks start elsewhere.

    Ray waits for the call that runs here, and so for the rank.
    """
    while os.getppid() == raylet:
        time.sleep(_RAYLET_POLL_S)
    os._exit(1)


def _kill_group_with_this_process(group: int) -> IO[bytes]:
    """Have what a rank has started killed when this process dies: the kernel kills the rank alone.

    Returns a pipe; that is called off by a line in it.
    """
    # A shell reads until the end of the pipe. It is nobody's child, since a Ray worker that exits kills its children.
    script = 'exec 3<&0; { read -r _ <&3 || kill -s KILL -- "-$0"; } &'
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, str(group)],
        env={},  # nothing tells that it belongs to the rank, or to Ray: who ends these is not to end it
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watcher.wait()
    assert watcher.stdin is not None
    return watcher.stdin


def _start(what: RankProcess, log_fd: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [what.python, "-m", "foretrain.launcher.ray.child", str(os.getpid()), *what.command],
        cwd=what.workdir,
        env=what.env,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
