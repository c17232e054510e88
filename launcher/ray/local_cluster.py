"""A private Ray cluster on this machine, which ends with the block that uses it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from foretrain.launcher.ray import cluster_guard
from foretrain.launcher.ray.submission import check
from foretrain.launcher.ray.token import SESSIONS, headers_of, make_folder, make_token

_START_S = 120.0
_TOO_SLOW = "timed out during startup"
"""The words of Ray if a node needs more than 30 s to start, which cannot be changed. A busy machine may need more."""
_MAX_TRIES = 3
_OBJECT_STORE_BYTES = 100_000_000
_HOST = "127.0.0.1"
_ROOT = Path(__file__).parents[3]
_PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
"""Ports that would clash with those of another cluster."""


@contextmanager
def local_cluster(num_cpus: int, num_gpus: int = 0) -> Iterator[str]:
    """Yield the address of the dashboard of a new cluster with one node, which ends with the block.

    It listens on the loopback interface, and answers those who have its token (`token.py`), as `submission` does for
    this user. The cluster also ends with this process. The numbers may be larger than the machine's. Raises ValueError
    if Ray is not installed, and RuntimeError with the end of the cluster's log if it does not start.
    """
    check()
    for number in range(1, _MAX_TRIES + 1):
        with ExitStack() as running:
            log = running.enter_context(tempfile.TemporaryFile())
            port = _free_ports(1)[0]
            address = f"http://{_HOST}:{port}"
            process = _start(log, port, num_cpus, num_gpus)
            running.callback(_end, process)
            try:
                _wait(process, address, log)
            except RuntimeError as error:
                if _TOO_SLOW not in str(error) or number == _MAX_TRIES:
                    raise
                continue
            yield address
            return


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(cluster_guard.TERM_S + 2 * cluster_guard.KILL_S)


def _start(log: BinaryIO, port: int, num_cpus: int, num_gpus: int) -> "subprocess.Popen[bytes]":
    folder = make_folder()
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [
        *(sys.executable, "-m", "foretrain.launcher.ray.cluster_guard", str(folder)),
        *("--head", "--block", "--disable-usage-stats", f"--temp-dir={folder / SESSIONS}"),
        *(f"--dashboard-host={_HOST}", f"--dashboard-port={port}", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--{name}={number}" for name, number in ports.items()),
        *(f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
    ]
    return subprocess.Popen(
        command,
        cwd=_ROOT,  # where foretrain is found
        env={**_without_token(os.environ), **make_token(folder, port)},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for the run
    )


def _without_token(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the token of another cluster, which Ray would prefer."""
    return {name: value for name, value in environ.items() if name != "RAY_AUTH_TOKEN"}


def _free_ports(number: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for listener in opened:
            listener.bind((_HOST, 0))
        return [listener.getsockname()[1] for listener in opened]


def _wait(process: "subprocess.Popen[bytes]", address: str, log: BinaryIO) -> None:
    """Wait until the Jobs API answers. Raises RuntimeError if it does not."""
    deadline_s = time.monotonic() + _START_S
    opener, request = build_opener(ProxyHandler({})), Request(f"{address}/api/jobs/", headers=headers_of(address))
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(URLError, OSError), opener.open(request, timeout=5):
            return
        time.sleep(0.2)
    how = f"ended with status {process.returncode}" if process.returncode is not None else "does not answer"
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-20:]
    raise RuntimeError("\n".join([f"the Ray cluster on this machine {how}; the end of its log:", *lines]))
