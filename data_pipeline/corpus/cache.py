"""Files of remote corpora on this machine's disk: each fetched once for all processes, within a limit on their sizes.

    DIR/lock                              held for moments, while files are made, renamed or removed
    DIR/NAME-HASH.corpus/SHARD            whole and checked: nothing else gets this name
    DIR/NAME-HASH.corpus/SHARD.SIZE.part  on its way, under an exclusive lock; SIZE is kept free for it
    DIR/NAME-HASH.corpus/kept/FILE        small files, which stay as long as a process has them locked

HASH is that of the URL and the manifest, so that one name in one folder only ever means one content. The locks are
those of flock: they end with their process, however that ends. What a killed process leaves behind is a part, and the
next one goes on from it. A shard that had to give way while a process has it open takes up disk until that closes it.
"""

import errno
import fcntl
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from foretrain.data_pipeline.errors import CorpusError

PART = re.compile(r"\.(\d+)\.part$")
WAIT_FOR_TURN_S = 0.02
WAIT_FOR_ROOM_S = 0.05


@dataclass(frozen=True)
class Wanted:
    """A file as the manifest describes it."""

    name: str
    size_bytes: int | None
    """None where the manifest does not tell it, for small files."""
    sha256: str
    is_kept: bool = False
    """It stays as long as a process has its file descriptor open."""


@dataclass(frozen=True)
class _Stored:
    """A file found in the cache."""

    path: Path
    size_bytes: int
    """Of a part: what is kept free for it, or what it has where that is more."""
    used_ns: int
    is_part: bool
    is_kept: bool


class Cache:
    """The files of one corpus in a cache that others use too. Safe to use from several threads and processes."""

    def __init__(self, root: Path, url: str, manifest_sha256: str, max_bytes: int) -> None:
        key = hashlib.sha256(f"{url}\n{manifest_sha256}".encode()).hexdigest()[:16]
        stem = re.sub(r"[^\w.-]+", "_", url.rstrip("/").rpartition("/")[2])[:40]
        self.root = root
        self.folder = root / f"{stem}-{key}.corpus"
        self.max_bytes = max_bytes
        try:
            (self.folder / "kept").mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise CorpusError(
                f"{root} cannot be used as a cache ({error.strerror}): set data.cache.dir to a folder on a disk of "
                "this machine"
            ) from error

    def path(self, wanted: Wanted) -> Path:
        """Return where the file is when it is in the cache."""
        return (self.folder / "kept" if wanted.is_kept else self.folder) / wanted.name

    def open(self, wanted: Wanted) -> int | None:
        """Return a file descriptor of the whole file, whose room is the last to be taken while it is open."""
        try:
            file = os.open(self.path(wanted), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not _is_whole(file, wanted):
            os.close(file)
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        self._touch(file)
        return file

    def touch(self, wanted: Wanted) -> None:
        """Make a file the last to give way, if it is there."""
        try:
            self._touch(self.path(wanted))
        except FileNotFoundError:
            return

    def open_or_fetch(
        self, wanted: Wanted, fetch: Callable[[BinaryIO], None], *, is_ahead: bool = False
    ) -> tuple[int, bool] | None:
        """Return a file descriptor, and whether this call has fetched the file.

        fetch gets a file that may hold its first bytes already, and raises where it cannot complete and check it. While
        another process fetches the file, or needs all the room, this one waits. With is_ahead nothing waits and no file
        in use gives way: None is returned instead. Raises CorpusError where there cannot be room.
        """
        while True:
            if (file := self.open(wanted)) is not None:
                return file, False
            part, is_mine = self._reserve(wanted, is_ahead)
            if part is None:
                if is_ahead:
                    return None
                time.sleep(WAIT_FOR_ROOM_S)
            elif is_mine:
                return self._fetch(wanted, part, fetch), True
            else:
                with part:
                    if is_ahead:
                        return None
                    # Until the other one has it, or has given up, or is gone. Shared, as is the lock that the other one
                    # keeps on the whole file for as long as it reads it.
                    fcntl.flock(part, fcntl.LOCK_SH)
                time.sleep(WAIT_FOR_TURN_S * random.random())  # of several that wait, one must find it free

    def _reserve(self, wanted: Wanted, is_ahead: bool) -> tuple[BinaryIO | None, bool]:
        """Return the part of a file, and whether it is this call's to fill; None where there is no room now."""
        size_bytes = wanted.size_bytes or 0
        part = self._part(wanted)
        with self._locked():
            whole = self.path(wanted)
            if whole.exists():
                with whole.open("rb") as found:
                    if _is_whole(found.fileno(), wanted):
                        return None, False
                whole.unlink()  # cut short, by someone or something else
            if not part.exists() and not self._make_room(size_bytes, is_ahead):
                return None, False
            file = open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")  # noqa: SIM115, PTH123
            return file, _try_lock(file)

    def _part(self, wanted: Wanted) -> Path:
        whole = self.path(wanted)
        return whole.with_name(f"{whole.name}.{wanted.size_bytes or 0}.part")

    def _fetch(self, wanted: Wanted, part: BinaryIO, fetch: Callable[[BinaryIO], None]) -> int:
        path = self._part(wanted)
        with part:
            try:
                fetch(part)
                part.flush()
                os.fsync(part.fileno())  # else a power cut could leave a whole file of zeros
            except OSError as error:
                path.unlink(missing_ok=True)
                raise CorpusError(
                    f"{path} cannot be written ({error.strerror}): make room on its disk, lower data.cache.max_gb, or "
                    "set data.cache.dir to another disk"
                ) from error
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with self._locked():
                if wanted.size_bytes is None:
                    self._make_room(0, is_ahead=False)
                path.rename(self.path(wanted))
        fcntl.flock(file, fcntl.LOCK_SH)
        self._touch(file)
        return file

    def _make_room(self, size_bytes: int, is_ahead: bool) -> bool:
        """Remove what was not used for longest until size_bytes fit in; return whether they do."""
        if size_bytes > self.max_bytes:
            if is_ahead:
                return False
            raise self._no_room(size_bytes, 0)
        stored = sorted(self._stored(), key=lambda file: file.used_ns)
        used_bytes = sum(file.size_bytes for file in stored)
        for in_use in (False,) if is_ahead else (False, True):
            for file in stored:
                if used_bytes + size_bytes <= self.max_bytes:
                    return True
                if _remove(file, in_use):
                    used_bytes -= file.size_bytes
            stored = [file for file in stored if file.path.exists()]
        if used_bytes + size_bytes <= self.max_bytes:
            return True
        if not is_ahead and not any(file.is_part for file in stored):
            raise self._no_room(size_bytes, used_bytes)
        return False

    def _no_room(self, size_bytes: int, used_bytes: int) -> CorpusError:
        small = f", and small files in use take {used_bytes / 1e9:.3g} of it" if used_bytes else ""
        return CorpusError(
            f"a file of {size_bytes / 1e9:.3g} GB does not fit into the cache {self.root}: its limit is "
            f"{self.max_bytes / 1e9:.3g} GB{small}: raise data.cache.max_gb"
        )

    def _stored(self) -> Iterator[_Stored]:
        """The files of all corpora; nothing but what this class has made is among them."""
        for folder in (*self.root.glob("*-????????????????.corpus"), *self.root.glob("*-????????????????.corpus/kept")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        stat = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    part = PART.search(entry.name)
                    size_bytes = max(stat.st_size, int(part[1]) if part else 0)
                    yield _Stored(
                        Path(entry.path), size_bytes, stat.st_mtime_ns, part is not None, folder.name == "kept"
                    )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _touch(file: int | Path) -> None:
        now_ns = time.time_ns()  # the kernel's own clock of files stands still for milliseconds
        os.utime(file, ns=(now_ns, now_ns))


def _is_whole(file: int, wanted: Wanted) -> bool:
    """Whether a file with the name of a whole one still is: it was checked before it got that name."""
    if wanted.size_bytes is not None:
        return os.fstat(file).st_size == wanted.size_bytes
    with open(file, "rb", closefd=False) as content:  # small, and only its content can tell
        is_whole = hashlib.file_digest(content, "sha256").hexdigest() == wanted.sha256
        content.seek(0)
    return is_whole


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def _remove(stored: _Stored, in_use: bool) -> bool:
    """Remove a file that nobody has locked, or, with in_use, a shard that is open, and can still be read there."""
    try:
        with stored.path.open("r+b") as file:
            if not _try_lock(file) and (not in_use or stored.is_part or stored.is_kept):
                return False
            stored.path.unlink()
    except FileNotFoundError:
        return True
    return True
