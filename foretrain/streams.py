"""Standard streams that outlive the terminal or the pipe that they go to."""

import errno
import os
import stat
import sys
from collections.abc import Callable
from typing import Any, TextIO

_IS_GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has ended, or the terminal is closed: nothing that is written later can arrive."""


class LastingStream:
    """A text stream of which no write fails: what cannot be written is dropped.

    Calls `on_gone`, with the reason, when its terminal or the reader of its pipe is gone. After any other error, such
    as a full disk, later text is written again.
    """

    def __init__(self, stream: TextIO, on_gone: Callable[[str], None]) -> None:
        self._stream, self._on_gone = stream, on_gone

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        is_file = stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode)  # whose disk may fail once
        if error.errno not in _IS_GONE or is_file:
            return
        _discard(self._stream)
        self._on_gone(os.strerror(error.errno or 0))


def _discard(stream: TextIO) -> None:
    """Let what is written to a stream go nowhere, also what it has buffered.

    Otherwise each later write, and the last one when Python ends, would fail.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def discard_stdout() -> None:
    """Let all that this process prints from now on go nowhere, since nobody reads it."""
    _discard(sys.stdout)


def outlive_readers(on_gone: Callable[[str], None]) -> None:
    """Let no print of this process fail from now on; see LastingStream for `on_gone`."""
    sys.stdout = LastingStream(sys.stdout, on_gone)
    sys.stderr = LastingStream(sys.stderr, on_gone)
