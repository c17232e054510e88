"""The plan of a best-fit packing: which pieces of the stream each sample holds. It is made once and kept in a folder.

The folder has one file of little-endian int64 for each array of `BestFitPlan`, and `plan.json`, which says what was
packed and has the checksums of the arrays. A plan is a cache: one that is damaged, or is of other data, is made again.
"""

import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IntArray
from foretrain.data_pipeline.stream.best_fit import cut_into_pieces, pack
from foretrain.data_pipeline.stream.documents import documents_by_shard
from foretrain.files import lock
from foretrain.progress import byte_progress

VERSION = 2
RECORD = "plan.json"
ARRAYS = ("pieces", "sample_starts", "shard_starts")
"""Names of the files of the arrays, in the order of the fields of BestFitPlan."""
WORD = np.dtype("<i8")
ABANDONED_S = 3600.0
"""Seconds after which an unfinished plan that nobody has written to is taken for that of a killed process."""


@dataclass(frozen=True)
class BestFitPlan:
    """The samples of a best-fit packing; the arrays are mapped from files, not loaded."""

    pieces: IntArray
    """Position in the stream of each piece's first target, and the piece's length, shape (num_pieces, 2)."""
    sample_starts: IntArray
    """Number of the first piece of each sample, and the end, shape (num_samples + 1,)."""
    shard_starts: IntArray
    """Number of the first sample of each shard, and the end, shape (num_shards + 1,)."""


def open_plan(stream: TokenStream, seq_len: int, cache_dir: Path | None, *, progress: bool = False) -> BestFitPlan:
    """Return the plan of a stream. It is made if no sound plan is found.

    It is kept in `cache_dir`, or in the corpus's folder if `cache_dir` is None; if that cannot be written, in the
    user's cache. If several processes need the plan at once, one makes it and the others wait. Raises CorpusError if no
    folder can be written, and for a corpus whose documents do not add up to its tokens.
    """
    name = f"{stream.split}.best_fit-{seq_len}-{stream.fingerprint[:16]}"
    packed = [VERSION, stream.fingerprint, stream.split, stream.num_tokens, len(stream.shard_names), seq_len]
    paths = [folder / name for folder in _folders(stream, cache_dir)]
    for path in paths:
        plan = _load(path, packed)
        if plan is not None:
            return plan
    failures, last = [], None
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _load_or_make(path, packed, stream, seq_len, progress)
        except OSError as error:
            failures.append(f"{path.parent} ({error.strerror or error})")
            last = error
    raise CorpusError(
        f"the packing plan of {stream.folder} cannot be written to {', nor to '.join(failures)}: set data.cache.dir to "
        "a folder that can be written"
    ) from last


def _folders(stream: TokenStream, cache_dir: Path | None) -> list[Path]:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foretrain" / "plans"
    if cache_dir is not None:
        return [cache_dir / "plans", user_cache]
    return [Path(stream.folder), user_cache] if stream.store.is_local else [user_cache]


def _load(path: Path, packed: list[object]) -> BestFitPlan | None:
    """Return the plan in a folder, or None if it is missing, damaged, or not the plan of `packed`."""
    try:
        arrays = [np.memmap(path / name, WORD, "r") for name in ARRAYS]
        if (path / RECORD).read_bytes() != _record(packed, arrays):
            return None
    except (OSError, ValueError):  # ValueError: a file is empty, or not a whole number of words
        return None
    pieces, sample_starts, shard_starts = map(np.asarray, arrays)
    return BestFitPlan(pieces.reshape(-1, 2), sample_starts, shard_starts)


def _record(packed: list[object], arrays: Sequence[npt.NDArray[np.int64]]) -> bytes:
    """Return the content of plan.json. CRC-32 runs at memory speed; every rank of a run computes it."""
    return json.dumps({"packed": packed, "crc32": [zlib.crc32(array.data) for array in arrays]}).encode()


def _load_or_make(path: Path, packed: list[object], stream: TokenStream, seq_len: int, progress: bool) -> BestFitPlan:
    with lock(path.with_name(f".{path.name}.lock"), wait_s=math.inf, remove=True):
        plan = _load(path, packed)  # another process may have made it while this one waited for the lock
        if plan is None:
            _remove_abandoned(path)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
                unfinished = Path(temporary) / "plan"  # unlike `temporary`, other users may read it
                unfinished.mkdir()
                _write_arrays(unfinished, stream, seq_len, progress)
                arrays = [np.memmap(unfinished / name, WORD, "r") for name in ARRAYS]
                (unfinished / RECORD).write_bytes(_record(packed, arrays))
                shutil.rmtree(path, ignore_errors=True)
                unfinished.rename(path)
            plan = _load(path, packed)
    if plan is None:
        raise OSError("what was written there reads back changed")
    return plan


def _write_arrays(folder: Path, stream: TokenStream, seq_len: int, progress: bool) -> None:
    """Write the arrays of a plan shard by shard, so that memory does not grow with the corpus."""
    num_pieces = num_samples = 0
    with ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in ARRAYS]
        total_bytes = stream.num_tokens * stream.dtype.itemsize
        advance = stack.enter_context(byte_progress("packing", total_bytes, enabled=progress))

        def append(*parts: npt.ArrayLike) -> None:
            for file, part in zip(files, parts, strict=True):
                file.write(np.asarray(part, dtype=WORD).tobytes())

        for documents in documents_by_shard(stream):
            starts, lengths = cut_into_pieces(
                documents.starts_D, documents.ends_D, seq_len, documents.first, documents.end
            )
            order, offsets = pack(lengths, seq_len)
            append(np.stack([starts[order], lengths[order]], axis=1), num_pieces + offsets[:-1], num_samples)
            num_pieces += len(order)
            num_samples += len(offsets) - 1
            advance((documents.end - documents.first) * stream.dtype.itemsize)
        append([], num_pieces, num_samples)


def _remove_abandoned(path: Path) -> None:
    """Remove the unfinished plans of killed processes."""
    for pieces in path.parent.glob(f".{path.name}.*/plan/{ARRAYS[0]}"):
        with suppress(OSError):
            if time.time() - pieces.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(pieces.parents[1])
