"""How the bytes of a file arrive from elsewhere: one attempt without retries.

Every failure is a FetchError, and none takes longer than the timeout without a byte.
"""

from abc import ABC, abstractmethod

from foretrain.printable import error_message

CHUNK_BYTES = 2**20


class FetchError(Exception):
    """A failed attempt. The message names the URL; control characters in what it quotes are escaped."""

    def __init__(self, message: str, *, is_permanent: bool = False, wait_s: float = 0.0, restart: bool = False) -> None:
        super().__init__(error_message(message))
        self.is_permanent = is_permanent
        """Another attempt would fail as well."""
        self.wait_s = wait_s
        """Seconds that the server wants to pass before the next attempt."""
        self.restart = restart
        """The bytes fetched so far are not the beginning of the file."""


class Body(ABC):
    """The content of a file that is arriving."""

    offset_bytes: int
    """Position of the first byte: 0 if the other side ignored the request for a part and sends the complete file."""
    size_bytes: int | None
    """Size of the complete file; None if the other side does not say it."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the bytes that have arrived, or wait for some; empty at the end. Raises FetchError."""

    @abstractmethod
    def close(self) -> None:
        """Release the connection, whether all bytes were read or not."""


class Transport(ABC):
    """A folder elsewhere."""

    @abstractmethod
    def url_of(self, name: str) -> str:
        """Return the URL of a file, for messages."""

    @abstractmethod
    def open(self, name: str, offset_bytes: int) -> Body:
        """Request a file from offset_bytes on. Raises FetchError."""


def silence(url: str, timeout_s: float) -> FetchError:
    """Return the error of a transfer that was silent for longer than the timeout."""
    return FetchError(f"{url} sent nothing for {timeout_s:g} s")
