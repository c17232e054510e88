"""The hidden folder in which a corpus grows until it is whole, and how it takes its name."""

import errno
import fcntl
import glob
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from foretrain.data_pipeline.corpus.manifest import is_part_of_corpus
from foretrain.data_pipeline.errors import CorpusError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
HASH_CHARS = 8


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of a corpus that is being made, which ends with this process however that ends.

    Raises CorpusError, which names the holder, where another process has it. On a file system that has no locks,
    nothing is held.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    while True:
        with path.open("a+", encoding="utf-8", errors="replace") as file:
            _lock(file, out, path)
            if not _is_still(path, file.fileno()):  # the one who had it has removed it meanwhile
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: TextIO, out: Path, path: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            file.seek(0)  # of this very file: the path may be gone by now
            holder = file.read().strip() or "another process"
            raise CorpusError(
                f"{out} is being prepared by {holder}: wait for it, stop it, or choose another "
                f"folder (delete {path} if its machine is gone)"
            ) from None
        if error.errno not in NO_LOCKS:
            raise


def _is_still(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def partial_folder(out: Path, prepared_from: str) -> Path:
    """Return the path of the folder in which a corpus of these inputs and settings grows."""
    return out.with_name(f".{out.name}.partial-{prepared_from[:HASH_CHARS]}")


def remove_stale(out: Path, but: Path) -> bool:
    """Remove what runs with other inputs or settings have left; return whether there was any."""
    stale = [path for path in out.parent.glob(f".{glob.escape(out.name)}.partial-*") if path != but]
    for path in stale:
        shutil.rmtree(path)
    return bool(stale)


def check_is_free(out: Path, overwrite: bool) -> None:
    """Raise CorpusError unless the folder may be replaced: only what prepare wrote is ever deleted."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CorpusError(f"{out} is a file: choose a folder to write the corpus into")
    entries = sorted(out.iterdir())
    foreign = [entry.name for entry in entries if not is_part_of_corpus(entry.name)]
    if foreign:
        raise CorpusError(f"{out} holds {foreign[0]}, which is no part of a corpus: choose another folder")
    if entries and not overwrite:
        raise CorpusError(f"{out} already holds a corpus: choose another folder, or replace it with --overwrite")


def publish(partial: Path, out: Path) -> None:
    """Give the finished folder its name; a corpus that was there disappears only then."""
    if out.exists():
        old = out.with_name(f".{out.name}.old-{secrets.token_hex(4)}")
        out.replace(old)
        try:
            partial.replace(out)
        except BaseException:
            old.replace(out)
            raise
    else:
        partial.replace(out)
    for old in out.parent.glob(f".{glob.escape(out.name)}.old-*"):  # also that of a run that was killed just here
        shutil.rmtree(old)
