"""A Ray cluster of this machine alone, that ends with the block that needs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from launcher.ray.submission import check

_START_S = 120.0
_TERM_S = 20.0
_KILL_S = 10.0
_OBJECT_STORE_BYTES = 100_000_000
_HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[2]


@contextmanager
def local_cluster(num_cpus: int, num_gpus: int = 0) -> Iterator[str]:
    """Yield the address of the dashboard of a new cluster, which has one node; when the block is left, it is gone.

    Raises ValueError where Ray is not installed, and RuntimeError with the end of its log where it does not start.
    """
    check()
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it
    try:
        log = folder / "start.log"
        port = _free_ports(1)[0]
        process = _start(folder, log, port, num_cpus, num_gpus)
        try:
            address = f"http://{_HOST}:{port}"
            _wait(process, address, log)
            yield address
        finally:
            _stop(process, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, log: Path, port: int, num_cpus: int, num_gpus: int) -> "subprocess.Popen[bytes]":
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [
        *(sys.executable, "-m", "launcher.ray.child", str(os.getpid())),
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--dashboard-host={_HOST}", f"--dashboard-port={port}"),
        *(f"--{name}={number}" for name, number in ports.items()),
        *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}"),
        *(f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
    ]
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    env["TMPDIR"] = str(folder)  # of what Ray leaves behind
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=_ROOT,  # for launcher.ray.child
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the run
        )


_PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
"""Those that would clash with another cluster's."""


def _free_ports(number: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for listener in opened:
            listener.bind((_HOST, 0))
        return [listener.getsockname()[1] for listener in opened]


def _wait(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Wait until the Jobs API answers. Raises RuntimeError where it does not."""
    deadline_s = time.monotonic() + _START_S
    opener = build_opener(ProxyHandler({}))
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(URLError, OSError), opener.open(f"{address}/api/jobs/", timeout=5):
            return
        time.sleep(0.2)
    how = f"ended with status {process.returncode}" if process.returncode is not None else "does not answer"
    lines = log.read_text(errors="replace").strip().splitlines()[-20:]
    raise RuntimeError("\n".join([f"the Ray cluster of this machine {how}; its last words:", *lines]))


def _stop(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """End the cluster, in the order that Ray ends it, and then whatever is left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TERM_S)
    deadline_s = time.monotonic() + _KILL_S
    while left := _processes(process, folder):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"processes {left} of the Ray cluster of this machine do not end")
        time.sleep(0.05)


def _processes(process: "subprocess.Popen[bytes]", folder: Path) -> list[int]:
    """Those of the cluster that still run: all of its session, or that name its folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            named = os.fsencode(folder) in (entry / "cmdline").read_bytes()
            if state != "Z" and (named or int(session) == process.pid):
                found.append(int(entry.name))
    return found
