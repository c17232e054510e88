"""Check of a corpus in a folder before a run starts: no file is missing, shortened or damaged around its arrays.

A shard is not checked again as long as it is the same file: a record beside the shards holds the size, inode and times
of each file at its last check. The tokens themselves are not read; `verify` reads them.
"""

import json
import time
from contextlib import suppress
from pathlib import Path

from foretrain.data_pipeline.corpus.index import Index
from foretrain.data_pipeline.corpus.manifest import ShardInfo, SplitInfo, checked_name, index_name, sha256_of
from foretrain.data_pipeline.corpus.structure import check_structure
from foretrain.data_pipeline.errors import REMEDY, CorpusError, remedy_of
from foretrain.files import write_atomically
from foretrain.progress import byte_progress

MIN_AGE_S = 2.0
"""A file that changed more recently is not recorded: its clock may be too coarse to show a second change."""


LONG_BYTES = 10**9
"""The check of fewer bytes takes a second or two, and shows no progress."""


def open_checked(folder: Path, split: str, info: SplitInfo, dtype: str, *, progress: bool = False) -> Index:
    """Return the index of a split in a folder, after the check of all files of the split.

    Raises CorpusError for the first damaged file, with the byte offset if there is one.
    """
    record = _CheckedFiles(folder, split, info.index_sha256)
    try:
        path = folder / index_name(split)
        if not record.has(path):
            check_sha256(path, info.index_sha256)
            record.add(path)
        index = Index.open(path, info)
        unchecked = [number for number, shard in enumerate(info.shards) if not record.has(folder / shard.name, shard)]
        num_bytes = sum(info.shards[number].size_bytes for number in unchecked)
        with byte_progress(f"checking {folder}", num_bytes, enabled=progress and num_bytes > LONG_BYTES) as advance:
            for number in unchecked:
                path = folder / info.shards[number].name
                _check_shard(path, index, split, number, dtype)
                record.add(path)
                advance(info.shards[number].size_bytes)
    finally:
        record.write()
    return index


def check_sha256(path: Path, sha256: str) -> None:
    """Raise CorpusError unless a file has this SHA-256."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): {remedy_of(error)}") from error
    if found != sha256:
        raise CorpusError(f"{path} has other bytes than were written (SHA-256): {REMEDY}")


def check_size(path: str, size_bytes: int, shard: ShardInfo) -> None:
    """Raise CorpusError unless a shard's file has the size that the manifest says."""
    if size_bytes != shard.size_bytes:
        raise CorpusError(f"{path} has {size_bytes} bytes, but {shard.size_bytes} were written: {REMEDY}")


def _check_shard(path: Path, index: Index, split: str, number: int, dtype: str) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            check_structure(file.fileno(), str(path), index, split, number, dtype)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): {remedy_of(error)}") from error


class _CheckedFiles:
    """Record of the files of a split that were checked on this machine, with what `stat` said of them then.

    It is written beside the files if that is possible. Several processes may write it, each with all it has checked.
    """

    def __init__(self, folder: Path, split: str, index_sha256: str) -> None:
        self._path = folder / checked_name(split)
        self._index_sha256 = index_sha256
        self._opened_ns = time.time_ns()
        self._stats: dict[str, list[int]] = {}
        self._has_changed = False
        try:
            fields = json.loads(self._path.read_bytes())
            self._checked = dict(fields["files"]) if fields["index_sha256"] == index_sha256 else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self._checked = {}

    def has(self, path: Path, shard: ShardInfo | None = None) -> bool:
        """Whether this very file was checked before.

        Raises CorpusError if it is missing, or does not have the size of `shard`.
        """
        try:
            stat = path.stat()
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be looked at"
            raise CorpusError(f"{path} {what} ({error.strerror}): {remedy_of(error)}") from error
        if shard is not None:
            check_size(str(path), stat.st_size, shard)
        self._stats[path.name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return self._checked.get(path.name) == self._stats[path.name]

    def add(self, path: Path) -> None:
        """Add a file that was checked, with what `has` saw of it before the check."""
        _, mtime_ns, ctime_ns, _ = stat = self._stats[path.name]
        if max(mtime_ns, ctime_ns) < self._opened_ns - MIN_AGE_S * 1e9:
            self._checked[path.name] = stat
            self._has_changed = True

    def write(self) -> None:
        """Write the record if there is something new in it and the folder can be written."""
        if self._has_changed:
            with suppress(OSError):
                write_atomically(self._path, json.dumps({"index_sha256": self._index_sha256, "files": self._checked}))
