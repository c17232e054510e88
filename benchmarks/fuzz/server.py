"""A server of HTTP on loopback that answers every request with the same bytes, whatever they are."""

import socket
import threading
from contextlib import suppress


class AnsweringServer:
    """Answers each request with `answer`, and closes the connection. It runs until the process ends."""

    def __init__(self) -> None:
        self.answer = b""
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(65_536)):
                    request += more
                connection.sendall(self.answer)
