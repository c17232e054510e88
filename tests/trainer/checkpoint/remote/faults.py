"""A proxy between a client and a web server, which lets chosen requests fail, stall or lie."""

import http.client
import itertools
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import psutil

Kind = Literal["error", "reset", "stall", "truncate", "flip", "kill"]
"""error: status 500; reset: the connection breaks; stall: no answer comes; truncate: the connection breaks after half
of the content; flip: one bit of the content is another one; kill: the process that asks is killed."""


@dataclass(frozen=True)
class Request:
    """A request, as faults are chosen by it."""

    method: str
    path: str
    """With its query."""
    has_range: bool
    """Whether a part of a file is asked for."""


def nth(number: int, meets: Callable[[Request], bool] = lambda request: True) -> Callable[[Request], bool]:
    """A choice of one request: of those that `meets` chooses, the one with this number, from 0 on."""
    seen = itertools.count()
    return lambda request: meets(request) and next(seen) == number


@dataclass
class Fault:
    """What goes wrong with the requests that `meets` chooses."""

    kind: Kind
    meets: Callable[[Request], bool]
    times: int = 1
    """How many of the requests meet it; the ones after that are served."""
    num_met: int = 0
    """Requests that have met it."""


@dataclass
class Proxy:
    """A proxy in front of the server at `port`. Faults may be added at any time."""

    upstream_port: int
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    """All that have arrived."""
    num_bytes: int = 0
    """Bytes of content that were sent to clients."""
    sent: Counter[str] = field(default_factory=Counter)
    """The same for each path, without its query."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> str:
        """Serve in threads until the process ends, and return the URL."""
        proxy = self

        class Handler(_Handler):
            pass

        Handler.proxy = proxy
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    def fail(self, kind: Kind, meets: Callable[[Request], bool] = lambda request: True, times: int = 1) -> Fault:
        """Let the next requests fail that `meets` chooses."""
        fault = Fault(kind, meets, times)
        self.faults.append(fault)
        return fault

    def fault_of(self, request: Request) -> Kind | None:
        """What happens to a request that has arrived; None: it is served."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.num_met < fault.times and fault.meets(request):
                    fault.num_met += 1
                    return fault.kind
        return None

    def count(self, path: str, num_bytes: int) -> None:
        """Count bytes of content that are sent."""
        with self._lock:
            self.num_bytes += num_bytes
            self.sent[path.partition("?")[0]] += num_bytes

    def reset(self) -> None:
        """Forget all faults and requests."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()
            self.num_bytes = 0
            self.sent.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _serve(self) -> None:
        content = self._content()
        kind = self.proxy.fault_of(Request(self.command, self.path, "Range" in self.headers))
        if kind == "error":
            self._answer(500, {}, b"")
        elif kind == "reset":
            self._break()
        elif kind == "kill":
            _kill_the_owner_of(self.client_address[1])
        elif kind == "stall":
            self.connection.settimeout(60)
            self.rfile.read(1)  # until the client gives up
            self.close_connection = True
        else:
            self._forward(content, kind)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _forward(self, content: bytes, kind: Kind | None) -> None:
        upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream_port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        upstream.request(self.command, self.path, content, {**headers, "Content-Length": str(len(content))})
        response = upstream.getresponse()
        answer = response.read()
        upstream.close()
        self.proxy.count(self.path, len(answer))
        if kind == "flip" and answer:
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        self._answer(response.status, dict(response.getheaders()), answer, is_cut=kind == "truncate")

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, is_cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OWN or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self.wfile.flush()
            self._break()

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _kill_the_owner_of(port: int) -> None:
    """Kill the process whose connection has this port at its end."""
    owners = (each.pid for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port)
    os.kill(next(pid for pid in owners if pid not in (None, os.getpid())), signal.SIGKILL)


_OWN = ("content-length", "transfer-encoding", "connection", "expect")
"""Headers of one connection, which are not forwarded."""
