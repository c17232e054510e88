"""Prints a log while it grows."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EVERY_S = 0.5


@contextmanager
def echoed(log: Path) -> Iterator[None]:
    """While the block runs, print what is added to `log`."""
    start = 0
    with suppress(OSError):  # there is no log yet, or it cannot be read now
        start = log.stat().st_size
    done = threading.Event()
    thread = threading.Thread(target=_echo, args=(log, start, done), name="echo", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _echo(log: Path, offset: int, done: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = done.wait(_EVERY_S)
        new = b""
        with suppress(OSError), log.open("rb") as file:
            file.seek(offset)
            new = file.read()
        if new:
            offset += len(new)
            with suppress(OSError):  # the disk with Ray's logs may be full
                sys.stdout.flush()
                sys.stdout.buffer.write(new)
                sys.stdout.buffer.flush()
