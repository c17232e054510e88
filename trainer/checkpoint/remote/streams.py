"""The bytes of one remote file, as streams: read by ranges, and written from the beginning to the end."""

import io
import os
from contextlib import suppress
from typing import Any

from foretrain.trainer.checkpoint.remote.requests import RemoteError, file_system, repeated

PART_BYTES = 2**24
"""A file is sent in parts of this size. S3 takes 10,000 of them: 156 GiB."""
MOST_AHEAD_BYTES = 2**24
"""Most bytes that one request asks for ahead of those that are needed."""


def fetch(url: str, first: int, stop: int) -> bytes:
    """The bytes from `first` up to `stop` of a file that has them."""
    files, name = file_system(url)

    def request() -> bytes:
        content: bytes = files.cat_file(name, start=first, end=stop)
        if len(content) != stop - first:
            raise RemoteError(url, f"the server sent {len(content):,} of {stop - first:,} bytes")
        return content

    return repeated(url, request) if stop > first else b""


class RemoteReader(io.RawIOBase):
    """The content of a file, of which only what is read is fetched, and some bytes ahead of that.

    A request asks for twice as much as the one before as long as they follow each other, so what was fetched in vain is
    never more than what was needed.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        files, name = file_system(url)
        self._size: int = repeated(url, lambda: files.info(name)["size"])
        self._place = self._first = self._ahead_bytes = 0
        self._held = memoryview(b"")
        """What was fetched last, from the byte `_first` on."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), self._size - self._place)
        if wanted <= 0:
            return 0
        if not self._first <= self._place < self._first + len(self._held):
            self._fetch(wanted)
        skipped = self._place - self._first
        part = self._held[skipped : skipped + wanted]
        target[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _fetch(self, wanted: int) -> None:
        """Fetch at least `wanted` bytes from the place on."""
        follows = self._held and self._place == self._first + len(self._held)
        self._ahead_bytes = min(2 * len(self._held), MOST_AHEAD_BYTES) if follows else 0
        first, last = self._place, min(self._place + max(wanted, self._ahead_bytes), self._size)
        self._held = memoryview(b"")  # its memory is not needed while the next bytes arrive
        self._held, self._first = memoryview(fetch(self._url, first, last)), first


class RemoteWriter(io.RawIOBase):
    """A new file, to be written from its beginning to its end. It is not there before `close` has returned.

    Raises RemoteError if the server does not take it, or has another number of bytes than were written.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._num_bytes, self._has_failed = url, 0, False
        self._files, self._name = file_system(url)
        self._file = repeated(url, lambda: self._files.open(self._name, "wb", block_size=PART_BYTES))

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), PART_BYTES):  # the library copies what it gets at once
                self._file.write(view[start : start + PART_BYTES])
        except Exception as error:  # each library has its own errors
            self._give_up()
            raise RemoteError(self._url, error) from error
        self._num_bytes += len(view)
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._has_failed:
                self._complete()
        finally:
            super().close()

    def _complete(self) -> None:
        try:
            self._file.close()
        except Exception as error:
            self._give_up()
            raise RemoteError(self._url, error) from error
        there = repeated(self._url, lambda: self._files.info(self._name)["size"])
        if there != self._num_bytes:
            raise RemoteError(self._url, f"the server has {there:,} bytes, and {self._num_bytes:,} were written")

    def _give_up(self) -> None:
        """Drop the parts that were sent. The next save removes what stays there."""
        self._has_failed = True
        with suppress(Exception):
            self._file.discard()
        with suppress(AttributeError):
            self._file.closed = True  # else it would be sent once more when it is garbage
