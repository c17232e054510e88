"""A Ray actor that starts one rank as a separate process, forwards signals to it, and returns its exit status."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any

import ray
import ray.util

from foretrain.faults import is_passing
from foretrain.launcher import rendezvous
from foretrain.launcher.logs import open_log
from foretrain.launcher.ray.places import Place
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.submission import read
from foretrain.launcher.restart import EXIT_SIGNAL
from foretrain.trainer.run.exit_status import EXIT_HANG

NOT_STARTED = 127
"""The exit status of a rank whose program could not be started, as in a shell."""
_RAYLET_POLL_S = 0.5
OPTIONS: dict[str, Any] = {
    "max_concurrency": 4,  # `run` takes as long as the rank lives, and other calls must not wait for it
    "max_restarts": 0,
    "runtime_env": {"env_vars": {"RAY_worker_niceness": "0"}},  # else Ray starts actors, and so ranks, with niceness 15
}
"""Options of all actors of this class."""


@dataclass(frozen=True)
class Process:
    """The process of a rank or of a task, which starts its ranks itself."""

    title: str
    """What it is in its log, such as "rank 3"."""
    python: str
    command: tuple[str, ...]
    place_env: dict[str, str]
    """The variables that say which one it is. All others are in `request`: Ray may show the arguments of an actor."""
    request: Path
    """The file with the job, which only its owner can read."""
    workdir: str
    log: Path

    @property
    def env(self) -> dict[str, str]:
        """The complete environment. Raises OSError if the file of the job cannot be read."""
        return {**dict(read(self.request.read_text(encoding="utf-8")).job.env), **self.place_env}


class Agent:
    """The actor of one rank, for one start of it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._lock = threading.Lock()
        threading.Thread(target=_end_with_raylet, args=(os.getppid(),), name="end-with-raylet", daemon=True).start()

    def place(self) -> Place:
        """The node and the GPUs that Ray gave this actor."""
        context = ray.get_runtime_context()
        devices = tuple(str(device) for device in context.get_accelerator_ids().get("GPU", []))
        return Place(ray.util.get_node_ip_address(), context.get_node_id(), devices, os.getpid())

    def free_port(self, seed: int) -> int:
        """A port of this node, which this actor keeps for the store of rank 0."""
        port, self._holder = rendezvous.reserve(seed)
        return port

    def run(self, what: Process) -> int:
        """Start the rank, wait for its end, and return its exit status: 128 + n for signal n.

        It is EXIT_HANG if a fault that passes prevented the start.
        """
        # The kernel kills the rank when the thread that started it ends, so this thread also waits for it.
        try:
            with open_log(what.log, what.title) as log:
                process = _started(what, log)
        except OSError as error:
            say(f"{what.title} cannot be started: {error}")
            return EXIT_HANG if is_passing(error) else NOT_STARTED
        with self._lock:
            self._process = process
        for signum in self._early:
            self.signal(signum)
        watcher = _kill_group_with_this_process(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            # Before it is reaped, no other process can get its number.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(BrokenPipeError), watcher:
                watcher.write(b"\n")
            status = process.wait()
            self._process = None
        return status if status >= 0 else EXIT_SIGNAL - status

    def signal(self, signum: int) -> None:
        """Send a signal to the rank; SIGKILL also goes to the processes that it started."""
        with self._lock:
            if self._process is None:
                self._early.append(signum)
                return
            with suppress(ProcessLookupError):
                (os.killpg if signum == signal.SIGKILL else os.kill)(self._process.pid, signum)


def _end_with_raylet(raylet: int) -> None:
    """End this process once the raylet has ended: for Ray the node is then gone, and its ranks start elsewhere.

    Ray itself would wait for the call of `run`, and so for the rank.
    """
    while os.getppid() == raylet:
        time.sleep(_RAYLET_POLL_S)
    os._exit(1)


def _kill_group_with_this_process(group: int) -> IO[bytes]:
    """Have the process group of a rank killed when this process dies: the kernel kills the rank alone.

    Returns a pipe; a line that is written to it calls that off.
    """
    # A shell reads until the pipe is closed. It has no parent: a Ray worker that exits kills its children.
    script = 'exec 3<&0; { read -r _ <&3 || kill -s KILL -- "-$0"; } &'
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", script, str(group)],
        env={},  # programs that look for processes of the rank, or of Ray, must not find it
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watcher.wait()
    assert watcher.stdin is not None
    return watcher.stdin


def _started(what: Process, log: FileIO) -> "subprocess.Popen[bytes]":
    try:
        return _start(what, log.fileno())
    except OSError as error:
        log.write(f"cannot be started: {error}\n".encode())
        raise


def _start(what: Process, log_fd: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [what.python, "-m", "foretrain.launcher.ray.child", str(os.getpid()), *what.command],
        cwd=what.workdir,
        env=what.env,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
