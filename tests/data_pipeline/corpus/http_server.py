"""A web server on the loopback interface that fails on request."""

import re
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A fault in the answer to one request; without any fields, the answer is correct."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    """Words after the status."""
    cut_after: int | None = None
    """Close the connection after this many bytes of the body."""
    reset_after: int | None = None
    """Reset the connection after this many bytes of the body."""
    stall_after: int | None = None
    """Send nothing more after this many bytes of the body."""
    stall_at_once: bool = False
    """Do not even send headers."""
    flip: bool = False
    """Change a byte of the body."""
    shorten: int = 0
    """Send a well-formed answer without this many bytes at the end of the file."""
    shift: int = 0
    """Answer a range with one that begins this much later."""


OK = Fault()


class FaultyServer(ThreadingHTTPServer):
    """The files of a folder."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.has_ranges = True
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        """Faults of the next requests for a file."""
        self.always: dict[str, Fault] = {}
        """Fault of every request for a file, after its `faults` are used up."""
        self.requests: list[tuple[str, int]] = []
        """File, and the first byte that was requested."""
        self.gate = threading.Event()
        """While it is not set, the transfer of a shard stops after the first half."""
        self.gate.set()
        self.ended = threading.Event()
        """Frees the requests that stall."""

    @property
    def url(self) -> str:
        """URL of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}/corpus"

    def requested(self, name: str) -> list[int]:
        """Return the first byte that was requested, for each request for a file."""
        return [start for requested, start in self.requests if requested == name]

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close their connection."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.removeprefix("/corpus/")
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(requested[1]) if requested else 0
        self.server.requests.append((name, start))
        queue = self.server.faults[name]
        fault = queue.popleft() if queue else self.server.always.get(name, OK)
        file = self.server.folder / name
        if fault.stall_at_once:
            self.server.ended.wait()
        elif fault.status != 200:
            self._answer(fault.status, b"", fault.headers, fault)
        elif not file.is_file():
            self._answer(404, b"", {})
        else:
            content = file.read_bytes()
            self._send(content[: len(content) - fault.shorten], start, fault)

    def _send(self, content: bytes, start: int, fault: Fault) -> None:
        if not start or not self.server.has_ranges:
            self._answer(200, _damaged(content, fault), fault.headers, fault)
        elif start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            start += fault.shift
            span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._answer(206, _damaged(content[start:], fault), span | fault.headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault = OK) -> None:
        self.send_response(status, fault.reason)
        for key, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
        for after in (fault.cut_after, fault.reset_after, fault.stall_after):
            if after is not None:
                body = body[:after]
        half = len(body) // 2
        self.wfile.write(body[:half])
        if self.path.endswith(".tar"):
            self.server.gate.wait()
        self.wfile.write(body[half:])
        if fault.stall_after is not None:
            self.server.ended.wait()
        if fault.reset_after is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _damaged(body: bytes, fault: Fault) -> bytes:
    if not fault.flip:
        return body
    at = len(body) // 3
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@contextmanager
def serving(folder: Path) -> Iterator[FaultyServer]:
    """Serve a folder while the block runs."""
    server = FaultyServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
