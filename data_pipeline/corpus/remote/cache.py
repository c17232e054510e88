"""A cache of remote files on this machine's disk, shared by all processes, with a limit on the total size.

    DIR/lock                              held for moments, while files are created, renamed or removed
    DIR/NAME-HASH.corpus/SHARD            a complete file that was checked; nothing else gets such a name
    DIR/NAME-HASH.corpus/SHARD.SIZE.part  a download, under an exclusive lock; SIZE bytes are reserved for it
    DIR/NAME-HASH.corpus/kept/FILE        small files, which stay as long as a process has them locked (pinned)

HASH is that of the URL and the manifest, so a name in a folder always means the same content. The locks are those of
flock, which end with their process. A killed process leaves a part, from which the next process resumes. An evicted
shard that a process still has open takes up disk space until it is closed.
"""

import fcntl
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from foretrain.data_pipeline.errors import CorpusError

PART = re.compile(r"\.(\d+)\.part$")
WAIT_FOR_TURN_S = 0.02
WAIT_FOR_ROOM_S = 0.05


@dataclass(frozen=True)
class CachedFile:
    """A file as the manifest describes it."""

    name: str
    size_bytes: int | None
    """None for small files whose size is not in the manifest."""
    sha256: str
    is_pinned: bool = False
    """The file stays in the cache as long as a process has its descriptor open."""


@dataclass(frozen=True)
class _Entry:
    """A file found in the cache."""

    path: Path
    size_bytes: int
    """For a part, the size that is reserved for it, or its present size if that is larger."""
    used_ns: int
    is_part: bool
    is_pinned: bool


class Cache:
    """The files of one corpus in a cache that other corpora share. Several threads and processes may use it at once."""

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

    def path(self, file: CachedFile) -> Path:
        """Return the path of the file when it is in the cache."""
        return (self.folder / "kept" if file.is_pinned else self.folder) / file.name

    def open(self, file: CachedFile) -> int | None:
        """Return a descriptor of the complete file, or None. An open file is evicted only after all others."""
        try:
            descriptor = os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if not _is_complete(descriptor, file):
            os.close(descriptor)
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._touch(descriptor)
        return descriptor

    def touch(self, file: CachedFile) -> None:
        """Mark a file as the most recently used one, if it is in the cache."""
        with suppress(FileNotFoundError):
            self._touch(self.path(file))

    def open_or_fetch(
        self, file: CachedFile, fetch: Callable[[BinaryIO], None], *, is_prefetch: bool = False
    ) -> tuple[int, bool] | None:
        """Return a file descriptor, and whether this call has fetched the file.

        `fetch` gets a file that may hold its first bytes; it raises an error unless it completes and checks it. While
        another process fetches the file or needs all the room, this call waits. With `is_prefetch` it does not wait or
        evict a file in use, but returns None instead. Raises CorpusError if the file can never fit.
        """
        while True:
            if (descriptor := self.open(file)) is not None:
                return descriptor, False
            part, is_mine = self._reserve(file, is_prefetch)
            if part is None:
                if is_prefetch:
                    return None
                time.sleep(WAIT_FOR_ROOM_S)
            elif is_mine:
                return self._fetch(file, part, fetch), True
            else:
                with part:
                    if is_prefetch:
                        return None
                    # Wait until the other process has the file, gives up or dies. The lock is shared, because the other
                    # process keeps a shared lock on the complete file for as long as it reads it.
                    fcntl.flock(part, fcntl.LOCK_SH)
                time.sleep(WAIT_FOR_TURN_S * random.random())  # so that one of several waiting processes finds it free

    def _reserve(self, file: CachedFile, is_prefetch: bool) -> tuple[BinaryIO | None, bool]:
        """Return the part of a file, and whether this call must fill it; None if there is no room now."""
        size_bytes = file.size_bytes or 0
        part_path = self._part_path(file)
        with self._locked():
            complete = self.path(file)
            if complete.exists():
                with complete.open("rb") as found:
                    if _is_complete(found.fileno(), file):
                        return None, False
                complete.unlink()  # something else has shortened it
            if not part_path.exists() and not self._make_room(size_bytes, is_prefetch):
                return None, False
            descriptor = os.open(part_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            part = open(descriptor, "r+b")  # noqa: SIM115, PTH123
            return part, _try_lock(part)

    def _part_path(self, file: CachedFile) -> Path:
        complete = self.path(file)
        return complete.with_name(f"{complete.name}.{file.size_bytes or 0}.part")

    def _fetch(self, file: CachedFile, part: BinaryIO, fetch: Callable[[BinaryIO], None]) -> int:
        path = self._part_path(file)
        with part:
            try:
                fetch(part)
                part.flush()
                os.fsync(part.fileno())  # without it, a power cut could leave a file of zeros
            except OSError as error:
                path.unlink(missing_ok=True)
                raise CorpusError(
                    f"{path} cannot be written ({error.strerror}): make room on its disk, lower data.cache.max_gb, or "
                    "set data.cache.dir to another disk"
                ) from error
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with self._locked():
                if file.size_bytes is None:
                    self._make_room(0, is_prefetch=False)
                path.rename(self.path(file))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._touch(descriptor)
        return descriptor

    def _make_room(self, size_bytes: int, is_prefetch: bool) -> bool:
        """Evict the least recently used files until size_bytes fit; return whether they fit."""
        if size_bytes > self.max_bytes:
            if is_prefetch:
                return False
            raise self._no_room(size_bytes, 0)
        entries = sorted(self._entries(), key=lambda entry: entry.used_ns)
        used_bytes = sum(entry.size_bytes for entry in entries)
        for in_use in (False,) if is_prefetch else (False, True):
            for entry in entries:
                if used_bytes + size_bytes <= self.max_bytes:
                    return True
                if _evict(entry, in_use):
                    used_bytes -= entry.size_bytes
            entries = [entry for entry in entries if entry.path.exists()]
        if used_bytes + size_bytes <= self.max_bytes:
            return True
        if not is_prefetch and not any(entry.is_part for entry in entries):
            raise self._no_room(size_bytes, used_bytes)
        return False

    def _no_room(self, size_bytes: int, used_bytes: int) -> CorpusError:
        small = f", and small files in use take {used_bytes / 1e9:.3g} of it" if used_bytes else ""
        return CorpusError(
            f"a file of {size_bytes / 1e9:.3g} GB does not fit into the cache {self.root}: its limit is "
            f"{self.max_bytes / 1e9:.3g} GB{small}: raise data.cache.max_gb"
        )

    def _entries(self) -> Iterator[_Entry]:
        """Yield the files of all corpora in the cache, and no other files."""
        for folder in (*self.root.glob("*-????????????????.corpus"), *self.root.glob("*-????????????????.corpus/kept")):
            with os.scandir(folder) as found:
                for each in found:
                    try:
                        stat = each.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if not each.is_file(follow_symlinks=False):
                        continue
                    part = PART.search(each.name)
                    size_bytes = max(stat.st_size, int(part[1]) if part else 0)
                    is_pinned = folder.name == "kept"
                    yield _Entry(Path(each.path), size_bytes, stat.st_mtime_ns, part is not None, is_pinned)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # not foretrain.files.lock, which does not exclude threads of one process
            yield

    @staticmethod
    def _touch(file: int | Path) -> None:
        now_ns = time.time_ns()  # the kernel's clock for files has steps of milliseconds
        os.utime(file, ns=(now_ns, now_ns))


def _is_complete(descriptor: int, file: CachedFile) -> bool:
    """Whether the file still has the content that was checked: its size, or its SHA-256 if the size is unknown."""
    if file.size_bytes is not None:
        return os.fstat(descriptor).st_size == file.size_bytes
    with open(descriptor, "rb", closefd=False) as content:
        is_complete = hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
        content.seek(0)
    return is_complete


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _evict(entry: _Entry, in_use: bool) -> bool:
    """Remove a file that nobody has locked, or, with in_use, also a shard that is open, which stays readable."""
    with suppress(FileNotFoundError), entry.path.open("r+b") as file:
        if not _try_lock(file) and (not in_use or entry.is_part or entry.is_pinned):
            return False
        entry.path.unlink()
    return True
