"""The plan of a best-fit packing: which pieces of the stream each sample holds, made once and kept as a file.

The file is a .npy array of int64: for each piece the stream position of its first target and its length; then the
number of each sample's first piece, and of each shard's first sample; then a trailer that says what the plan is of, and
ends in a checksum. It is believed only where every byte agrees with the checksum.
"""

import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IntArray
from foretrain.data_pipeline.stream.best_fit import cut_into_pieces, pack
from foretrain.progress import byte_progress

VERSION = 1
WORD = np.dtype("<i8")
NUM_TRAILER_WORDS = 8
"""A SHA-256 of what the plan is of (4 words), the numbers of pieces, samples and shards, and the checksum."""
CHECKED_AT_ONCE_BYTES = 1 << 24
ABANDONED_S = 3600.0
"""A partial file that nobody has written to for so long was left by a process that is gone."""


@dataclass(frozen=True)
class Plan:
    """The samples of a best-fit packing, in memory that is mapped from the file."""

    pieces: IntArray
    """Shape (num_pieces, 2): stream position of the first target, and length."""
    sample_starts: IntArray
    """Number of the first piece of each sample, and the end: shape (num_samples + 1,)."""
    shard_starts: IntArray
    """Number of the first sample of each shard, and the end: shape (num_shards + 1,)."""


def open_plan(stream: TokenStream, seq_len: int, cache_dir: Path | None, *, progress: bool = False) -> Plan:
    """Return the plan of a stream, made first where no sound file of it is found.

    It is kept in `cache_dir`, or the corpus's folder where that is None, or else, where that cannot be written, in the
    user's cache. Of several processes, one makes it and the others wait. Raises CorpusError where no folder can be
    written, and for a corpus whose documents do not make up its tokens.
    """
    name = f"{stream.split}.best_fit-{seq_len}-{stream.fingerprint[:16]}.npy"
    identity = _identity(stream, seq_len)
    paths = [folder / name for folder in _folders(stream, cache_dir)]
    for path in paths:
        plan = _load(path, identity)
        if plan is not None:
            return plan
    failures = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _make(path, identity, stream, seq_len, progress)
        except OSError as error:
            failures.append(f"{path.parent} ({error.strerror or error})")
    raise CorpusError(
        f"the packing plan of {stream.folder} cannot be written to {', nor to '.join(failures)}: set data.cache.dir to "
        "a folder that can be written"
    )


def documents_by_shard(stream: TokenStream) -> Iterator[tuple[IntArray, IntArray, int, int]]:
    """Yield (starts, ends, first, end) for each shard: stream positions of documents, and of the shard's tokens.

    The documents, as [start, end), are those that begin in the shard, after the one before them, which may reach into
    the shard. Holds one shard's documents at a time. Raises CorpusError where they do not make up the stream.
    """
    starts: IntArray = np.empty(0, dtype=np.int64)
    waiting: list[int] = []
    edges = stream.shard_starts.tolist()
    for shard, (first, end) in enumerate(pairwise(edges)):
        found = stream.document_starts(shard)
        inside = np.concatenate([[first - 1], found, [end]])
        if (np.diff(inside) <= 0).any() or (shard == 0 and end > 0 and (len(found) == 0 or found[0] != 0)):
            raise CorpusError(
                f"the lengths of documents in {stream.shard_names[shard]} of {stream.folder} do not add up to its "
                "tokens: run `foretrain data verify`, and prepare the corpus again"
            )
        if len(found):
            yield from _ended(starts, int(found[0]), waiting, edges)
            starts, waiting = np.concatenate([starts[-1:], found]), []
        waiting.append(shard)
    yield from _ended(starts, stream.num_tokens, waiting, edges)


def _ended(
    starts: IntArray, end: int, shards: list[int], edges: list[int]
) -> Iterator[tuple[IntArray, IntArray, int, int]]:
    """All documents begin in the first of the shards; the last one fills the others, and ends at `end`."""
    for shard in shards:
        yield starts, np.append(starts[1:], end), edges[shard], edges[shard + 1]
        starts = starts[-1:]


def _folders(stream: TokenStream, cache_dir: Path | None) -> list[Path]:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foretrain" / "plans"
    if cache_dir is not None:
        return [cache_dir / "plans", user_cache]
    return [Path(stream.folder), user_cache] if stream.store.is_local else [user_cache]


def _identity(stream: TokenStream, seq_len: int) -> bytes:
    record = [VERSION, stream.fingerprint, stream.split, stream.num_tokens, len(stream.shard_names), seq_len]
    return hashlib.sha256(json.dumps(record).encode()).digest()


def _load(path: Path, identity: bytes) -> Plan | None:
    """Return the plan of a file, or None where there is no file, or it is damaged, or of something else."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            header_bytes = len(_npy_header(0))
            if size_bytes < header_bytes + NUM_TRAILER_WORDS * WORD.itemsize or size_bytes % WORD.itemsize:
                return None
            checksum = _checksum(file, size_bytes - WORD.itemsize)
            words = np.asarray(np.memmap(file, WORD, "r", offset=header_bytes))
            if words[-1] != checksum or words[-8:-4].tobytes() != identity:
                return None
    except OSError:
        return None
    num_pieces, num_samples, num_shards = words[-4:-1].tolist()
    pieces, sample_starts, shard_starts = np.split(
        words[:-NUM_TRAILER_WORDS], [2 * num_pieces, 2 * num_pieces + num_samples + 1]
    )
    if len(shard_starts) != num_shards + 1:
        return None
    return Plan(pieces.reshape(-1, 2), sample_starts, shard_starts)


def _checksum(file: IO[bytes], size_bytes: int) -> int:
    """Return the CRC-32 of the first bytes of a file: at memory speed, as a run of many ranks starts with it."""
    file.seek(0)
    buffer = memoryview(bytearray(min(CHECKED_AT_ONCE_BYTES, size_bytes)))
    checksum, left = 0, size_bytes
    while left:
        got = file.readinto(buffer[:left])  # type: ignore[attr-defined]  # IO[bytes] does not know of it
        if not got:
            raise OSError("the file became shorter")
        checksum = zlib.crc32(buffer[:got], checksum)
        left -= got
    return checksum


def _make(path: Path, identity: bytes, stream: TokenStream, seq_len: int, progress: bool) -> Plan:
    with _one_at_a_time(path):
        plan = _load(path, identity)
        if plan is None:
            _sweep(path)
            partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
            try:
                with partial.open("w+b") as file:
                    _write(file, path.parent, identity, stream, seq_len, progress)
                partial.replace(path)
            except BaseException:  # Ctrl-C too
                partial.unlink(missing_ok=True)
                raise
            plan = _load(path, identity)
    if plan is None:
        raise OSError("what was written there reads back changed")
    return plan


def _write(file: IO[bytes], folder: Path, identity: bytes, stream: TokenStream, seq_len: int, progress: bool) -> None:
    """Write a plan shard by shard, never holding more than one: the samples' part waits in a file of its own."""
    num_pieces = num_samples = 0
    shard_starts = [0]
    total_bytes = stream.num_tokens * stream.dtype.itemsize
    with (
        tempfile.TemporaryFile(dir=folder) as sample_starts,
        byte_progress("packing", total_bytes, enabled=progress) as advance,
    ):
        file.write(_npy_header(0))
        for starts, ends, first, end in documents_by_shard(stream):
            piece_starts, lengths = cut_into_pieces(starts, ends, seq_len, first, end)
            order, offsets = pack(lengths, seq_len)
            file.write(_bytes(np.stack([piece_starts[order], lengths[order]], axis=1)))
            sample_starts.write(_bytes(num_pieces + offsets[:-1]))
            num_pieces += len(order)
            num_samples += len(offsets) - 1
            shard_starts.append(num_samples)
            advance((end - first) * stream.dtype.itemsize)
        sample_starts.seek(0)
        shutil.copyfileobj(sample_starts, file, CHECKED_AT_ONCE_BYTES)
    file.write(_bytes([num_pieces, *shard_starts]))
    file.write(identity + _bytes([num_pieces, num_samples, len(shard_starts) - 1]))
    size_bytes = file.tell() + WORD.itemsize
    file.seek(0)
    file.write(_npy_header((size_bytes - len(_npy_header(0))) // WORD.itemsize))
    checksum = _checksum(file, size_bytes - WORD.itemsize)
    file.write(_bytes([checksum]))
    file.flush()
    os.fsync(file.fileno())


def _bytes(words: npt.ArrayLike) -> bytes:
    return np.asarray(words, dtype=WORD).tobytes()


def _npy_header(num_words: int) -> bytes:
    """Of the same size for any number of words: numpy leaves room for the number to grow."""
    header = io.BytesIO()
    fields: dict[str, Any] = {"descr": WORD.str, "fortran_order": False, "shape": (num_words,)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let the processes of this machine in one by one; all at once on a file system without locks, which does no harm.

    The lock goes with the process that holds it, however that ends.
    """
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left half-written."""
    for partial in path.parent.glob(f".{path.name}.partial-*"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_S:
                partial.unlink()
