"""One process at a time in a run's folder: two that write one record and one set of checkpoints would spoil both."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from foretrain.files import LockHeldError, lock

LOCK_FILE = ".lock"


class InUseError(ValueError):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked(run_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Make the folder and hold its lock, which ends with this process however that ends.

    Raises InUseError, which names the holder, if another process still has the lock after `wait_s` seconds: on this
    machine, or on any that shares the file system and its locks.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK_FILE
    with ExitStack() as held:
        try:
            held.enter_context(lock(path, wait_s=wait_s))
        except LockHeldError as error:
            raise InUseError(
                f"{run_dir} is in use by {error.holder}: wait for it, stop it, or set another run_dir. Its lock ends "
                f"with it; on NFS, minutes after its machine. Do not delete {path} while it may run: two runs would "
                "then write the same files until the first one's next checkpoint"
            ) from None
        yield
