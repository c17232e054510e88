"""A cache of remote files on this machine's disk, shared by all processes, with a limit on the total size.

    DIR/lock                              held for moments, while files are created, renamed or removed
    DIR/NAME-HASH.corpus/SHARD            a complete file that was checked; nothing else gets such a name
    DIR/NAME-HASH.corpus/SHARD.SIZE.part  a download, under an exclusive lock; no other gets the room for its SIZE bytes
    DIR/NAME-HASH.corpus/kept/FILE        small files, which stay as long as a process has them locked (pinned)

HASH is that of the URL and the manifest, so a name in a folder always means the same content. The locks are those of
flock, which end with their process. A killed process leaves a part, from which the next process resumes. An evicted
shard that a process still has open takes up disk space until it is closed.

A manifest may promise any size, so complete files are evicted only as the bytes of a download arrive. The cache belongs
to one user: nobody else may write into it, and a link in it is never followed.
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
from typing import Any, BinaryIO, cast

from foretrain.data_pipeline.corpus.remote.cache_files import (
    MAKE_ROOM,
    advice_about,
    check_is_own,
    closed_after_errors,
    open_file,
    rename_open,
)
from foretrain.data_pipeline.errors import CorpusError
from foretrain.files import naming

PART = re.compile(r"\.(\d+)\.part$")
WAIT_FOR_TURN_S = 0.02
WAIT_FOR_ROOM_S = 0.05
GRANT_BYTES = 1 << 24
"""Room that is made at once for the bytes of a download that come next, or a sixteenth of its size if that is more."""


@dataclass(frozen=True)
class CachedFile:
    """A file as the manifest describes it."""

    name: str
    size_bytes: int | None
    """None for small files whose size is not in the manifest."""
    sha256: str
    is_pinned: bool = False
    """The file stays in the cache as long as a process has its descriptor open."""
    max_bytes: int | None = None
    """Limit on the size of a file whose size is not in the manifest."""


@dataclass(frozen=True)
class _Entry:
    """A file found in the cache."""

    path: Path
    size_bytes: int
    """Its present size."""
    reserved_bytes: int
    """For a part, the size that it may get; else its present size."""
    used_ns: int
    is_part: bool
    is_pinned: bool

    @property
    def claimed_bytes(self) -> int:
        """The present size, and for a part also what it may get before it asks for room again."""
        return min(self.reserved_bytes, self.size_bytes + 2 * _grant_bytes(self.reserved_bytes))


def _grant_bytes(size_bytes: int) -> int:
    return max(GRANT_BYTES, size_bytes // 16)


class _Part:
    """A part that asks for room before it grows."""

    def __init__(self, file: BinaryIO, make_room: Callable[[int], int]) -> None:
        """`make_room` gets the size that is needed, and returns the one that there is room for."""
        self._file, self._make_room = file, make_room
        self._granted_bytes = os.fstat(file.fileno()).st_size

    def write(self, data: bytes) -> int:
        needed_bytes = self._file.tell() + len(data)
        if needed_bytes > self._granted_bytes:
            self._granted_bytes = self._make_room(needed_bytes)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Cache:
    """The files of one corpus in a cache that other corpora share. Several threads and processes may use it at once."""

    def __init__(
        self, root: Path, url: str, manifest_sha256: str, max_bytes: int, *, checks_hits: bool = False
    ) -> None:
        """`checks_hits`: compare the SHA-256 of a file also when it is found in the cache, and not its size alone."""
        key = hashlib.sha256(f"{url}\n{manifest_sha256}".encode()).hexdigest()[:16]
        stem = re.sub(r"[^\w.-]+", "_", url.rstrip("/").rpartition("/")[2])[:40]
        self.root = root
        self.folder = root / f"{stem}-{key}.corpus"
        self.max_bytes = max_bytes
        self._checks_hits = checks_hits
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (root, self.folder, self.folder / "kept"):
                folder.mkdir(mode=0o700, exist_ok=True)
                check_is_own(folder)
            with self._locked():
                pass
        except OSError as error:
            advice = advice_about(error, "set data.cache.dir to a folder on a disk of this machine")
            raise CorpusError(f"{root} cannot be used as a cache ({error.strerror}): {advice}") from error

    def path(self, file: CachedFile) -> Path:
        """Return the path of the file when it is in the cache."""
        return (self.folder / "kept" if file.is_pinned else self.folder) / file.name

    def open(self, file: CachedFile) -> int | None:
        """Return a descriptor of the complete file, or None. An open file is evicted only after all others."""
        try:
            descriptor = open_file(self.path(file), os.O_RDONLY)
        except FileNotFoundError:
            return None
        with closed_after_errors(descriptor):
            if not self._is_complete(descriptor, file):
                os.close(descriptor)
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._touch(descriptor)
        return descriptor

    def touch(self, file: CachedFile) -> None:
        """Mark a file as the most recently used one, if it is in the cache."""
        self._touch(self.path(file))

    def open_or_fetch(
        self, file: CachedFile, fetch: Callable[[BinaryIO], None], *, is_prefetch: bool = False
    ) -> tuple[int, bool] | None:
        """Return a file descriptor, and whether this call has fetched the file.

        `fetch` gets a file that may hold its first bytes; it raises an error unless it completes and checks it. While
        another process fetches the file or needs all the room, this call waits. With `is_prefetch` it does not wait or
        evict a file in use, but returns None instead. Raises CorpusError if the file can never fit, and OSError, which
        names it, if the disk fails.
        """
        with naming(self.path(file)):
            return self._open_or_fetch(file, fetch, is_prefetch)

    def _open_or_fetch(
        self, file: CachedFile, fetch: Callable[[BinaryIO], None], is_prefetch: bool
    ) -> tuple[int, bool] | None:
        while True:
            if (descriptor := self.open(file)) is not None:
                return descriptor, False
            part, is_mine = self._reserve(file, is_prefetch)
            if part is None:
                if is_prefetch:
                    return None
                time.sleep(WAIT_FOR_ROOM_S)
            elif is_mine:
                return self._fetch(file, part, fetch, is_prefetch), True
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
            with suppress(FileNotFoundError):
                with os.fdopen(open_file(complete, os.O_RDONLY), "rb") as found:
                    if self._is_complete(found.fileno(), file):
                        return None, False
                complete.unlink()  # something else has changed it
            if not part_path.exists() and not self._may_start(size_bytes, is_prefetch):
                return None, False
            descriptor = open_file(part_path, os.O_RDWR | os.O_CREAT)
            part = os.fdopen(descriptor, "r+b")
            return part, _try_lock(part)

    def _part_path(self, file: CachedFile) -> Path:
        complete = self.path(file)
        return complete.with_name(f"{complete.name}.{file.size_bytes or 0}.part")

    def _fetch(self, file: CachedFile, part: BinaryIO, fetch: Callable[[BinaryIO], None], is_prefetch: bool) -> int:
        path = self._part_path(file)

        def make_room(needed_bytes: int) -> int:
            with self._locked():
                return self._grow(path, needed_bytes, file.size_bytes, is_prefetch)

        with part:
            try:
                fetch(cast(BinaryIO, _Part(part, make_room)))
                part.flush()
                os.fsync(part.fileno())  # without it, a power cut could leave a file of zeros
            except OSError as error:
                with suppress(OSError):  # the disk may be gone
                    path.unlink(missing_ok=True)
                advice = advice_about(error, MAKE_ROOM)
                raise CorpusError(f"{path} cannot be written ({error.strerror}): {advice}") from error
            with closed_after_errors(open_file(path, os.O_RDONLY)) as descriptor, self._locked():
                rename_open(path, self.path(file), descriptor)
        with closed_after_errors(descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._touch(descriptor)
        return descriptor

    def _may_start(self, size_bytes: int, is_prefetch: bool) -> bool:
        """Whether a download may start: its size fits beside those of all others that have started.

        Beside what processes use, too, if it is only ahead of need. Evicts nothing. Raises CorpusError if it can never
        fit.
        """
        entries = [*self._entries()]
        if size_bytes + sum(entry.reserved_bytes for entry in entries) <= self.max_bytes:
            return True
        # What a killed process has left can be evicted.
        parts = [entry for entry in entries if entry.is_part and _is_in_use(entry)]
        kept_bytes = sum(
            entry.size_bytes
            for entry in entries
            if not entry.is_part and (entry.is_pinned or is_prefetch) and _is_in_use(entry)
        )
        if size_bytes + sum(entry.reserved_bytes for entry in parts) + kept_bytes <= self.max_bytes:
            return True
        if not is_prefetch and (size_bytes > self.max_bytes or not parts):
            raise self._no_room(size_bytes, kept_bytes)
        return False

    def _grow(self, part: Path, needed_bytes: int, size_bytes: int | None, is_prefetch: bool) -> int:
        """Make room for a part of `needed_bytes`, and for more that will come; return the size that it may have.

        Raises CorpusError if there is no room.
        """
        ahead_bytes = needed_bytes + _grant_bytes(size_bytes or 0)
        for wanted_bytes in (ahead_bytes if size_bytes is None else min(ahead_bytes, size_bytes), needed_bytes):
            if wanted_bytes >= needed_bytes and self._make_room(wanted_bytes, is_prefetch, part):
                return wanted_bytes
        raise self._no_room(needed_bytes, 0)

    def _make_room(self, size_bytes: int, is_prefetch: bool, part: Path) -> bool:
        """Evict the least recently used files until a part may have size_bytes; return whether it may."""
        entries = sorted((entry for entry in self._entries() if entry.path != part), key=lambda entry: entry.used_ns)
        used_bytes = sum(entry.claimed_bytes for entry in entries)
        for in_use in (False,) if is_prefetch else (False, True):
            for entry in entries:
                if used_bytes + size_bytes <= self.max_bytes:
                    return True
                if _evict(entry, in_use):
                    used_bytes -= entry.claimed_bytes
            entries = [entry for entry in entries if entry.path.exists()]
        return used_bytes + size_bytes <= self.max_bytes

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
                    reserved_bytes = max(stat.st_size, int(part[1]) if part else 0)
                    is_pinned = folder.name == "kept"
                    path, is_part = Path(each.path), part is not None
                    yield _Entry(path, stat.st_size, reserved_bytes, stat.st_mtime_ns, is_part, is_pinned)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with os.fdopen(open_file(self.root / "lock", os.O_RDWR | os.O_CREAT), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # not foretrain.files.lock, which does not exclude threads of one process
            yield

    def _is_complete(self, descriptor: int, file: CachedFile) -> bool:
        """Whether the file still has the content that was checked: its size; its SHA-256 if that is asked for.

        Of a file whose size is unknown, it is always the SHA-256.
        """
        if file.size_bytes is not None and os.fstat(descriptor).st_size != file.size_bytes:
            return False
        if file.size_bytes is not None and not self._checks_hits:
            return True
        with open(descriptor, "rb", closefd=False) as content:
            is_complete = hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
            content.seek(0)
        return is_complete

    @staticmethod
    def _touch(file: int | Path) -> None:
        now_ns = time.time_ns()  # the kernel's clock for files has steps of milliseconds
        with suppress(OSError):  # it is not there, or its disk fails: it only seems to be older
            os.utime(file, ns=(now_ns, now_ns))


def _is_in_use(entry: _Entry) -> bool:
    with suppress(FileNotFoundError), entry.path.open("rb") as file:
        return not _try_lock(file)
    return False


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
