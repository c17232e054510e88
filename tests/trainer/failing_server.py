"""A server on loopback that answers every request with status 500, or not at all. Not a test module."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def failing_server(stalls: bool) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the URL of a server, and what counts its requests. `stalls`: it answers none of them before it ends."""
    answers, requests = threading.Event(), []
    if not stalls:
        answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            answers.wait()
            with suppress(OSError):  # who asked may have left
                self.send_error(500)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", lambda: len(requests)
        finally:
            answers.set()
            server.shutdown()
            thread.join()
