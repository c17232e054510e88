"""One process at a time in a run's folder: two that write one record and one set of checkpoints would spoil both."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which ends with this process however that ends.

    Raises ValueError, which names the holder, where another process has it: on this machine, or on any that shares the
    file system and its locks. On a file system that has no locks, nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.seek(0)
                raise ValueError(
                    f"{run_dir} is in use by {file.read().strip() or 'another process'}: wait for it, stop it, or set "
                    f"another run_dir (delete {path} if its machine is gone)"
                ) from None
            # Lustre without -o flock: a run is worth more than its lock.
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
