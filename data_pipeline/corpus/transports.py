"""How bytes come from elsewhere: http(s), a command's output, or a file system of fsspec. One attempt, no retries.

Whatever goes wrong is a FetchError, and it comes in time: no call lasts longer than the timeout without a byte.
"""

import email.utils
import http.client
import io
import os
import queue
import select
import shlex
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from foretrain.data_pipeline.errors import CorpusError

CHUNK_BYTES = 2**20
FSSPEC_BLOCK_BYTES = 2**23  # s3fs's own 50 MiB arrive in one piece, which on a slow line is longer than a timeout
RETRIED_STATUS = {408, 416, 425, 429}
"""Besides 5xx: timeout, range beyond the end of the file, too early, too many requests."""


class FetchError(Exception):
    """An attempt that failed. The message names the URL."""

    def __init__(self, message: str, *, is_permanent: bool = False, wait_s: float = 0.0, restart: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent
        """The next attempt would fail as well."""
        self.wait_s = wait_s
        """The server asks not to be asked again before this."""
        self.restart = restart
        """What was fetched so far is not the beginning of the file."""


class Body(ABC):
    """A file as it arrives."""

    offset_bytes: int
    """Of the first byte that comes: 0 where a part was asked for and the other side sends only whole files."""
    size_bytes: int | None
    """Of the whole file, where the other side tells."""

    @abstractmethod
    def read(self) -> bytes:
        """Return what has come, or wait for it; empty at the end. Raises FetchError."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it, whether it was read to its end or not."""

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Transport(ABC):
    """A folder elsewhere."""

    @abstractmethod
    def url_of(self, name: str) -> str:
        """Return the name of a file for people to read."""

    @abstractmethod
    def open(self, name: str, offset_bytes: int) -> Body:
        """Ask for a file from offset_bytes on. Raises FetchError."""


def transport_of(url: str, timeout_s: float) -> Transport:
    """Return the transport of a URL. Raises CorpusError where there is none."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return HttpTransport(url, timeout_s)
    return PipeTransport(url, timeout_s) if scheme == "pipe" else FsspecTransport(url, timeout_s)


def _silence(url: str, timeout_s: float) -> FetchError:
    return FetchError(f"{url} sent nothing for {timeout_s:g} s")


class HttpTransport(Transport):
    """http(s), by the standard library.

    webdataset would run `curl` without a timeout on a stalled transfer, without ranges, and without telling its caller
    the status or Retry-After.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def url_of(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{urllib.parse.quote(name)}"

    def open(self, name: str, offset_bytes: int) -> Body:
        """Send the request and wait for its headers."""
        url = self.url_of(name)
        headers = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        with _http_errors(url, self._timeout_s):
            request = urllib.request.Request(url, headers=headers)
            return _HttpBody(url, urllib.request.urlopen(request, timeout=self._timeout_s), self._timeout_s)


class _HttpBody(Body):
    def __init__(self, url: str, response: http.client.HTTPResponse, timeout_s: float) -> None:
        self._url, self._response, self._timeout_s = url, response, timeout_s
        self.offset_bytes = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            self.offset_bytes = _range_start(response.headers.get("Content-Range", ""))
        self.size_bytes = None if response.length is None else self.offset_bytes + response.length

    def read(self) -> bytes:
        with _http_errors(self._url, self._timeout_s):
            return self._response.read1(CHUNK_BYTES)

    def close(self) -> None:
        self._response.close()


def _range_start(content_range: str) -> int:
    """Return the start of `bytes 100-199/200`; -1, which no one asked for, where it is something else."""
    start = content_range.removeprefix("bytes").strip().partition("-")[0]
    return int(start) if start.isdecimal() else -1


@contextmanager
def _http_errors(url: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _status_error(url, error) from error
    except TimeoutError as error:
        raise _silence(url, timeout_s) from error
    except http.client.InvalidURL as error:
        raise FetchError(f"{url} is not a URL ({error})", is_permanent=True) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):  # while connecting
            raise _silence(url, timeout_s) from error
        is_permanent = isinstance(reason, ssl.SSLCertVerificationError)
        raise FetchError(f"{url}: {reason or type(reason).__name__}", is_permanent=is_permanent) from error


def _status_error(url: str, error: urllib.error.HTTPError) -> FetchError:
    is_permanent = error.code < 500 and error.code not in RETRIED_STATUS
    message = f"{url} answers {error.code} {error.reason}"
    wait_s = _retry_after_s(error.headers.get("Retry-After"))
    return FetchError(message, is_permanent=is_permanent, wait_s=wait_s, restart=error.code == 416)


def _retry_after_s(value: str | None) -> float:
    """Return the wait of RFC 9110, 10.2.3: seconds, or a date; 0 where there is none that can be read."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


class PipeTransport(Transport):
    """The output of a command with the file's name in the place of {}, run by a shell through webdataset's gopen."""

    def __init__(self, url: str, timeout_s: float) -> None:
        if "{}" not in url:
            raise CorpusError(f"{url} has no {{}}: put {{}} where the command wants the name of a file")
        self._url, self._timeout_s = url, timeout_s

    def url_of(self, name: str) -> str:
        """Return pipe: and the command."""
        return self._url.replace("{}", shlex.quote(name))

    def open(self, name: str, offset_bytes: int) -> Body:
        """Start the command, which gives the whole file whatever the offset."""
        return _PipeBody(self.url_of(name), self._timeout_s)


class _PipeBody(Body):
    offset_bytes = 0
    size_bytes = None

    def __init__(self, url: str, timeout_s: float) -> None:
        from webdataset.gopen import gopen, set_options  # takes 2 s, so that only those wait who use it

        self._url, self._timeout_s = url, timeout_s
        # In a session of its own, the command can be ended together with all that it started.
        self._pipe = gopen(f"pipe:exec setsid sh -c {shlex.quote(url.removeprefix('pipe:'))}", "rb")
        set_options(self._pipe, timeout=timeout_s)
        self._ended = False

    def read(self) -> bytes:
        output = select.poll()
        output.register(self._pipe.stream, select.POLLIN)
        if not output.poll(self._timeout_s * 1e3):
            raise _silence(self._url, self._timeout_s)
        if data := os.read(self._pipe.stream.fileno(), CHUNK_BYTES):
            return data
        try:
            self._pipe.close()  # waits for the command's status
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{self._url} did not end within {self._timeout_s:g} s of its output") from error
        except OSError as error:
            raise FetchError(f"{self._url} ended with status {self._pipe.proc.returncode}") from error
        self._ended = True
        return b""

    def close(self) -> None:
        if not self._ended:
            with suppress(ProcessLookupError):
                os.killpg(self._pipe.proc.pid, signal.SIGKILL)
            self._pipe.proc.kill()  # where it had no time yet to begin a session
            self._pipe.ignore_errors = True
            self._pipe.close()
            self._pipe.proc.wait()


class FsspecTransport(Transport):
    """Any file system that fsspec knows: s3, gs, hf and others, each with a library of its own."""

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            import fsspec.core  # type: ignore[import-untyped]

            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise CorpusError(f"{url} needs more libraries: pip install 'foretrain[remote]' ({error})") from error
        except ValueError as error:
            raise CorpusError(
                f"{url} cannot be read ({error}): give a folder, http(s)://, pipe:COMMAND {{}}, s3://, gs:// or hf://"
            ) from error
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def url_of(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def open(self, name: str, offset_bytes: int) -> Body:
        """Begin to read in a thread."""
        path = f"{self._root.rstrip('/')}/{name}"
        return _FsspecBody(self._files, path, self.url_of(name), offset_bytes, self._timeout_s)


class _FsspecBody(Body):
    """Reads in a thread: the backends differ in their timeouts, and one that hangs is left behind."""

    size_bytes = None

    def __init__(self, files: Any, path: str, url: str, offset_bytes: int, timeout_s: float) -> None:
        self.offset_bytes = offset_bytes
        self._files, self._path, self._url, self._timeout_s = files, path, url, timeout_s
        self._read: queue.Queue[bytes | FetchError] = queue.Queue(maxsize=2)
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="fsspec", daemon=True).start()

    def read(self) -> bytes:
        try:
            data = self._read.get(timeout=self._timeout_s)
        except queue.Empty as error:
            raise _silence(self._url, self._timeout_s) from error
        if isinstance(data, FetchError):
            raise data
        return data

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        try:
            with self._files.open(self._path, "rb", block_size=FSSPEC_BLOCK_BYTES) as file:
                # Seeking beyond the end is an error in some of the backends, and not in others.
                if self.offset_bytes and file.seek(0, io.SEEK_END) < self.offset_bytes:
                    raise FetchError(f"{self._url} has fewer than {self.offset_bytes} bytes", restart=True)
                file.seek(self.offset_bytes)
                while data := file.read(CHUNK_BYTES):
                    if not self._give(data):
                        return
            self._give(b"")
        except FetchError as error:
            self._give(error)
        except Exception as error:  # noqa: BLE001  # each backend has errors of its own, and none may be lost
            is_permanent = isinstance(error, FileNotFoundError | PermissionError | ImportError)
            text = "is not there" if isinstance(error, FileNotFoundError) else repr(error)
            self._give(FetchError(f"{self._url}: {text}", is_permanent=is_permanent))

    def _give(self, data: bytes | FetchError) -> bool:
        """Hand data over; return False where nobody wants it any more."""
        while not self._closed.is_set():
            try:
                self._read.put(data, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
