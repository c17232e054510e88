"""Find shards that are missing, cut or altered in their structure before a run opens them.

The size of every file is compared with the manifest, and its headers are walked and compared with the index. A walk is
not done again while the file is the same one, which a record beside the shards tells: its size, inode and times then.
"""

import json
import secrets
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from foretrain.data_pipeline.corpus.index import REMEDY, Index
from foretrain.data_pipeline.corpus.manifest import ShardInfo, SplitInfo, checked_name, index_name, sha256_of
from foretrain.data_pipeline.corpus.shard_writer import member_key
from foretrain.data_pipeline.corpus.tar_index import ShardIndex, index_shard
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.progress import byte_progress

SETTLED_S = 2.0
"""A file changed more recently is not recorded: a second change in the same tick of its clock would go unseen."""


def open_checked(folder: Path, split: str, info: SplitInfo, dtype: str, *, progress: bool = False) -> Index:
    """Return the index of a split in a folder after the check of all its files.

    Raises CorpusError for the first file at fault, naming the byte where there is one.
    """
    record = _Record(folder, split, info.index_sha256)
    try:
        path = folder / index_name(split)
        if not record.knows(path):
            check_sha256(path, info.index_sha256)
            record.keep(path)
        index = Index.open(path, info)
        unknown = [number for number, shard in enumerate(info.shards) if not record.knows(folder / shard.name, shard)]
        num_bytes = sum(info.shards[number].size_bytes for number in unknown)
        with byte_progress(f"checking {folder}", num_bytes, enabled=progress and num_bytes > 0) as advance:
            for number in unknown:
                path = folder / info.shards[number].name
                check_shard(str(path), index_shard(path, dtype), info.shards[number], index, split, number)
                record.keep(path)
                advance(info.shards[number].size_bytes)
    finally:
        record.write()
    return index


def check_sha256(path: Path, sha256: str) -> None:
    """Raise CorpusError unless the bytes of a file are the ones that were written."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): {REMEDY}") from error
    if found != sha256:
        raise CorpusError(f"{path} has other bytes than were written (SHA-256): {REMEDY}")


def check_size(path: str, size_bytes: int, shard: ShardInfo) -> None:
    """Raise CorpusError unless a shard's file has the size that was written."""
    if size_bytes != shard.size_bytes:
        raise CorpusError(f"{path} has {size_bytes} bytes, and {shard.size_bytes} were written: copy it anew")


def check_shard(path: str, found: ShardIndex, shard: ShardInfo, index: Index | None, split: str, number: int) -> None:
    """Raise CorpusError unless what was found in the file of shard `number` is what the manifest and the index say."""
    holds = int(found.num_tokens.sum()), len(found.num_tokens)
    if holds != (shard.num_tokens, shard.num_members):
        raise CorpusError(
            f"{path} holds {holds[0]} tokens in {holds[1]} members, and the manifest says {shard.num_tokens} in "
            f"{shard.num_members}: it is another shard, so copy it anew"
        )
    if index is None:
        return
    for one, other in zip(vars(found).values(), vars(_written(index, split, number)).values(), strict=True):
        if not np.array_equal(one, other):
            at = int(found.tokens_at[(one == other).argmin()])
            raise CorpusError(
                f"{path} is another shard: the sample whose tokens are at byte {at} is not the one that was written "
                "there; copy it anew"
            )


def _written(index: Index, split: str, number: int) -> ShardIndex:
    """What was written into a shard."""
    first, end = index.first_members[number : number + 2].tolist()
    return ShardIndex(
        keys=np.array([member_key(split, member).encode() for member in range(first, end)], dtype=np.bytes_),
        tokens_at=index.tokens_at[first:end],
        num_tokens=np.diff(index.start[first : end + 1]),
        lens_at=index.lens_at[first:end],
        num_lens=index.num_lens[first:end],
    )


class _Record:
    """The files of a split that were checked on this machine, by what they looked like then.

    Kept beside them, where that can be written: of several processes that write it, each has checked all it writes.
    """

    def __init__(self, folder: Path, split: str, index_sha256: str) -> None:
        self._path = folder / checked_name(split)
        self._index_sha256 = index_sha256
        self._began_ns = time.time_ns()
        self._looks: dict[str, list[int]] = {}
        self._has_more = False
        try:
            fields = json.loads(self._path.read_bytes())
            self._checked = dict(fields["files"]) if fields["index_sha256"] == index_sha256 else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self._checked = {}

    def knows(self, path: Path, shard: ShardInfo | None = None) -> bool:
        """Whether this very file was checked. Raises CorpusError where it is missing, or has not the shard's size."""
        try:
            stat = path.stat()
        except OSError as error:
            raise CorpusError(f"{path} is missing ({error.strerror}): bring it back, or prepare again") from error
        if shard is not None:
            check_size(str(path), stat.st_size, shard)
        self._looks[path.name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return self._checked.get(path.name) == self._looks[path.name]

    def keep(self, path: Path) -> None:
        """Remember that a file was checked, as it looked before that."""
        _, mtime_ns, ctime_ns, _ = looks = self._looks[path.name]
        if max(mtime_ns, ctime_ns) < self._began_ns - SETTLED_S * 1e9:
            self._checked[path.name] = looks
            self._has_more = True

    def write(self) -> None:
        """Write the record, whole or not at all, if there is more in it than before."""
        if not self._has_more:
            return
        partial = self._path.with_name(f"{self._path.name}.partial-{secrets.token_hex(4)}")
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump({"index_sha256": self._index_sha256, "files": self._checked}, file)
            partial.replace(self._path)
        except OSError:  # a folder that cannot be written is checked each time
            with suppress(OSError):
                partial.unlink(missing_ok=True)
