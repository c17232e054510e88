"""Files of any file system that fsspec knows: s3, gs, hf and others, each with its own library."""

import io
import queue
import threading
from typing import Any

from foretrain.data_pipeline.corpus.remote.transport import CHUNK_BYTES, Body, FetchError, Transport, silence
from foretrain.data_pipeline.errors import CorpusError

FSSPEC_BLOCK_BYTES = 2**23
"""s3fs's default of 50 MiB arrives in one piece, which on a slow line takes longer than a timeout."""


class FsspecTransport(Transport):
    """A folder of a file system of fsspec."""

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            import fsspec.core

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
        """Start reading in a thread."""
        path = f"{self._root.rstrip('/')}/{name}"
        return _FsspecBody(self._files, path, self.url_of(name), offset_bytes, self._timeout_s)


class _FsspecBody(Body):
    """Content that a thread reads, because the libraries have different timeouts. A thread that hangs is abandoned."""

    size_bytes = None

    def __init__(self, files: Any, path: str, url: str, offset_bytes: int, timeout_s: float) -> None:
        self.offset_bytes = offset_bytes
        self._files, self._path, self._url, self._timeout_s = files, path, url, timeout_s
        self._chunks: queue.Queue[bytes | FetchError] = queue.Queue(maxsize=2)
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="fsspec", daemon=True).start()

    def read(self) -> bytes:
        try:
            data = self._chunks.get(timeout=self._timeout_s)
        except queue.Empty as error:
            raise silence(self._url, self._timeout_s) from error
        if isinstance(data, FetchError):
            raise data
        return data

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        try:
            with self._files.open(self._path, "rb", block_size=FSSPEC_BLOCK_BYTES) as file:
                # Some of the libraries raise an error for a position beyond the end, and others do not.
                if self.offset_bytes and file.seek(0, io.SEEK_END) < self.offset_bytes:
                    raise FetchError(f"{self._url} has fewer than {self.offset_bytes} bytes", restart=True)
                file.seek(self.offset_bytes)
                while data := file.read(CHUNK_BYTES):
                    if not self._put(data):
                        return
            self._put(b"")
        except FetchError as error:
            self._put(error)
        except Exception as error:  # noqa: BLE001  # each library has its own errors, and none may be lost
            is_permanent = isinstance(error, FileNotFoundError | PermissionError | ImportError)
            text = "is not there" if isinstance(error, FileNotFoundError) else repr(error)
            self._put(FetchError(f"{self._url}: {text}", is_permanent=is_permanent))

    def _put(self, data: bytes | FetchError) -> bool:
        """Hand data over to the reader; return False if it has closed this body."""
        while not self._closed.is_set():
            try:
                self._chunks.put(data, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
