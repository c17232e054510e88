"""Files that are complete or absent, and a lock that ends with its process. Every room may import this module."""

import errno
import fcntl
import os
import secrets
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_POLL_S = 0.5
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of a file system without locks, such as Lustre without `-o flock`."""


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; what is written there replaces `path` when the block ends.

    If the block raises, the temporary file is removed and `path` stays as it was. `durable`: the new content survives a
    power cut once the block has ended.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file, text as UTF-8, so that readers see the old or the new content and never a part of either."""
    with naming(path), replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, max_bytes: int, refuse: Callable[[str], Exception]) -> bytes:
    """The content of a file. Raises `refuse(message)` if it has more than `max_bytes`, of which no more is read."""
    with naming(path), path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise refuse(f"{path} has more than {max_bytes:,} bytes, which is the limit of such a file")
    return content


def named_path(text: str) -> tuple[str, str]:
    """The name and the path of NAME=PATH, or no name and the complete text, if it is a path alone or has no path."""
    name, _, path = text.partition("=")
    return (name, path) if path and "/" not in name else ("", text)


def close_to_others(folder: Path, content: str) -> str | None:
    """Keep other users from writing into a folder whose files are trusted; returns why it cannot be trusted, or None.

    A folder that one's own group may write into, which may be all users of a machine, is closed to it. `content`: what
    others could replace, in words.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is a link or a file, and no folder"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to user {found.st_uid}, who could replace {content} in it"
    if found.st_mode & stat.S_IWOTH:
        return f"everybody can write into {folder}, and replace {content} in it"
    if found.st_mode & stat.S_IWGRP:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IWGRP)
    return None


def is_file(path: Path) -> bool:
    """Whether a path is a file. Raises OSError if that is not known: then `Path.is_file` of Python 3.14 is false."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder. Raises OSError if that is not known: then `Path.is_dir` of Python 3.14 is false."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name the file, which the operating system does not for one that is open."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


class LockHeldError(RuntimeError):
    """Another process, or another thread, holds a lock. `holder` names its process in words: "process 12 on node3"."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"the lock is held by {holder}")
        self.holder = holder


@contextmanager
def lock(path: Path, *, wait_s: float = 0.0, remove: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which the kernel releases when this process ends, however it ends.

    Raises LockHeldError if another process or thread still holds the lock after `wait_s` seconds. `remove`: delete the
    file when the block ends. On a file system without locks it does not exclude other processes, since a run is worth
    more than its lock.

    The lock is that of an open file (Linux's OFD locks), so that reading the file `path` in the process that holds it
    does not end it. A process that was forked and executes nothing else has it too. The package `filelock` would empty
    the file in which the holder names itself.
    """
    deadline_s = time.monotonic() + wait_s
    with _excluding_threads(path.absolute(), deadline_s):
        while True:
            with _open_lock_file(path) as file:
                with naming(path):
                    _acquire(file, deadline_s)
                    if not _is_file_at(path, file):
                        continue  # the previous holder removed the file while this process waited for it
                    file.truncate(0)
                    file.write(f"{_this_process()}\n")
                    file.flush()
                try:
                    yield
                finally:
                    if remove:
                        path.unlink(missing_ok=True)
                return


@contextmanager
def _open_lock_file(path: Path) -> Iterator[TextIO]:
    """Yield the open file of a lock. That it cannot be closed is no error: it has no content that could be lost."""
    file = path.open("a+", encoding="utf-8", errors="replace")
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


_held_here: set[Path] = set()
_released = threading.Condition()


@contextmanager
def _excluding_threads(path: Path, deadline_s: float) -> Iterator[None]:
    """Exclude other threads of this process, also on a file system without locks, and wake them without polling."""
    with _released:
        if not _released.wait_for(lambda: path not in _held_here, max(0.0, deadline_s - time.monotonic())):
            raise LockHeldError(_this_process())
        _held_here.add(path)
    try:
        yield
    finally:
        with _released:
            _held_here.discard(path)
            _released.notify_all()


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def lock_open_file(descriptor: int) -> None:
    """Take the lock of an open file, or raise an OSError: EAGAIN or EACCES if it is held through another open file."""
    # struct flock: kind, whence, start, length (0: to the end), and a process id that must be 0.
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def _acquire(file: TextIO, deadline_s: float) -> None:
    while True:
        try:
            lock_open_file(file.fileno())
            return
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline_s:
            file.seek(0)
            raise LockHeldError(file.read().strip() or "another process")
        time.sleep(_POLL_S)


def _is_file_at(path: Path, file: TextIO) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
