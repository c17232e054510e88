"""One process at a time in a run's folder: two that write one record and one set of checkpoints would spoil both."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK_FILE = ".lock"


_POLL_S = 0.5


class InUseError(ValueError):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked(run_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Make the folder and hold its lock, which ends with this process however that ends.

    Raises InUseError, which names the holder, where another process still has it after wait_s: on this machine, or on
    any that shares the file system and its locks. On a file system that has no locks, nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK_FILE
    with path.open("a+") as file:
        deadline_s = time.monotonic() + wait_s
        while not _take(file):
            if time.monotonic() >= deadline_s:
                file.seek(0)
                raise InUseError(
                    f"{run_dir} is in use by {file.read().strip() or 'another process'}: wait for it, stop it, or set "
                    f"another run_dir (delete {path} if its machine is gone)"
                )
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _take(file: TextIO) -> bool:
    """Take the lock, unless another process has it; where there are no locks, there is nothing to take."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        # Lustre without -o flock: a run is worth more than its lock.
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return True
