"""A file to which a sink appends lines, and which a full disk or a failing server neither ends nor shortens."""

import logging
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


class AppendedFile:
    """A file that is open at its end. Each line is written at once, without a buffer.

    What cannot be written, such as on a full disk, is kept in memory, and is written before the next line that can be.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._unwritten = bytearray()
        self._has_warned = False
        self._lock = threading.Lock()
        self.file: FileIO = path.open("ab", buffering=0)

    def append(self, line: str) -> None:
        """Write a line of text, which has its end, or keep it. Several threads may call it."""
        with self._lock:
            self._unwritten += line.encode()
        self.write_out()

    def write_out(self) -> None:
        """Write all that is not written yet, or keep the rest."""
        with self._lock:
            error = self._try_to_write()
            is_first = error is not None and not self._has_warned
            self._has_warned |= is_first
        # Without the lock: the warning may become a line of this very file.
        if error is not None and is_first:
            logger.warning(
                "%s cannot be written (%s): its lines are kept in memory until it can; free some space",
                self.path,
                error.strerror,
            )

    def _try_to_write(self) -> OSError | None:
        try:
            while self._unwritten:
                num_written = self.file.write(self._unwritten) or 0
                del self._unwritten[:num_written]
        except OSError as error:
            return error
        return None

    def replace(self, rewrite: Callable[[bytes], T]) -> T:
        """Let `rewrite` replace the file, given what could not be written to its end, and append to the new one.

        Raises what `rewrite` raises; the file is then as it was, and what could not be written is kept.
        """
        self.write_out()
        self._close_file()
        try:
            found = rewrite(bytes(self._unwritten))
            self._unwritten.clear()
        finally:
            self.file = self.path.open("ab", buffering=0)
        return found

    def close(self) -> None:
        """Write all that can be written, and report what cannot."""
        self.write_out()
        self._close_file()
        if self._unwritten:
            lines = self._unwritten.count(b"\n")
            logger.error("%s lacks its last lines (%d), since it cannot be written", self.path, lines)

    def _close_file(self) -> None:
        try:
            self.file.close()
        except OSError as error:  # a server may say only now that it has not written what it had accepted
            logger.error("%s may lack its last lines (%s)", self.path, error.strerror)
