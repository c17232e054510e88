"""Check of a shard's structure: every byte around the arrays is what the index of the split says it must be.

The index gives the offset and the length of each array, so the names, sizes and .npy headers in the file are known
before it is read. Ordinary tar readers stop without an error at a damaged header, or at the end of a shortened file.
The file is read and not mapped into memory, because a failure in a mapped file is a signal and not an error.

Shape letters: N members of the archive (two for each sample), B bytes.
"""

import os
import tarfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.index import Index, IntArray
from foretrain.data_pipeline.corpus.shard_writer import DOC_LENS_SUFFIX, LENS_DTYPE, TOKENS_SUFFIX, member_key
from foretrain.data_pipeline.errors import REMEDY, CorpusError

BLOCK_BYTES = tarfile.BLOCKSIZE
NPY_HEADER_BYTES = 128
"""Size of the .npy header that numpy writes for an array with one dimension."""
WINDOW_BYTES = 2 * BLOCK_BYTES + NPY_HEADER_BYTES
"""Bytes read for each member: the block before its header, which has the padding; its header; its .npy header."""
NAME, SIZE, CHECKSUM, TYPE = slice(512, 612), slice(636, 647), slice(660, 668), 668
"""Fields of the header, as positions in the window."""
SAMPLES_AT_ONCE = 2048
"""Number of samples that are checked together, which bounds the memory."""


def check_structure(fd: int, path: str, index: Index, split: str, shard: int, dtype: npt.DTypeLike) -> None:
    """Check all bytes of an open shard, except for its arrays, against the index of its split.

    `path` names the file in messages. Raises CorpusError with the byte offset of the first fault, and OSError.
    """
    first, stop = index.first_members[shard : shard + 2].tolist()
    end_bytes = 0
    for start in range(first, stop, SAMPLES_AT_ONCE):
        samples = range(start, min(start + SAMPLES_AT_ONCE, stop))
        end_bytes = _check_samples(fd, path, index, split, samples, np.dtype(dtype).newbyteorder("<"), end_bytes)
    tail = os.pread(fd, max(0, os.fstat(fd).st_size - end_bytes), end_bytes)
    if len(tail) < 2 * BLOCK_BYTES or tail.strip(b"\0"):
        raise _damage(path, end_bytes, f"only zeros must follow, at least {2 * BLOCK_BYTES} of them")


def _check_samples(
    fd: int, path: str, index: Index, split: str, samples: range, dtype: np.dtype[Any], previous_end_bytes: int
) -> int:
    """Check consecutive samples of a shard, and return the byte offset where the last array ends."""
    rows = slice(samples.start, samples.stop)
    keys = [member_key(split, sample) for sample in samples]
    names = [key + suffix for key in keys for suffix in (TOKENS_SUFFIX, DOC_LENS_SUFFIX)]
    dtypes = [dtype, LENS_DTYPE] * len(samples)
    counts_N = _interleave(np.diff(index.start[rows.start : rows.stop + 1]), index.num_lens[rows])
    sizes_N = NPY_HEADER_BYTES + counts_N * np.array([each.itemsize for each in dtypes])
    header_at_N = _interleave(index.tokens_at[rows], index.lens_at[rows]) - BLOCK_BYTES - NPY_HEADER_BYTES
    end_N = header_at_N + BLOCK_BYTES + sizes_N
    padding_N = header_at_N - np.concatenate([[previous_end_bytes], end_N[:-1]])

    found_NB = _read_windows(fd, header_at_N)
    is_padding_NB = np.arange(BLOCK_BYTES) >= BLOCK_BYTES - padding_N[:, None]
    has_other_name_N = _differs(found_NB[:, NAME], (name.encode().ljust(100, b"\0") for name in names))
    has_other_size_N = _differs(found_NB[:, SIZE], (b"%011o" % size for size in sizes_N.tolist()))
    faults = {
        "the padding before this header is not zero": (found_NB[:, :BLOCK_BYTES] * is_padding_NB).any(axis=1),
        "the checksum of this header is wrong": _has_wrong_checksum(found_NB),
        "this header is not the one that was written, so this is another shard": (
            has_other_name_N | has_other_size_N | (found_NB[:, TYPE] != ord("0"))
        ),
        "the .npy header is not the one that was written": _differs(
            found_NB[:, 2 * BLOCK_BYTES :], map(_npy_header, dtypes, counts_N.tolist())
        ),
    }
    is_faulty_N = np.any(list(faults.values()), axis=0)
    if is_faulty_N.any():
        member = int(is_faulty_N.argmax())
        what = next(what for what, is_fault_N in faults.items() if is_fault_N[member])
        raise _damage(path, int(header_at_N[member]), f"{what} ({names[member]})")
    return int(end_N[-1])


def _interleave(of_tokens: IntArray, of_lens: IntArray) -> IntArray:
    """Values of the members in the order of the file: the tokens of a sample, then its document lengths."""
    return np.stack([of_tokens, of_lens], axis=1).ravel()


def _read_windows(fd: int, header_at_N: IntArray) -> npt.NDArray[np.uint8]:
    """The window of each member, of shape (N, WINDOW_BYTES), with zeros before the file's start and after its end."""
    windows = [
        os.pread(fd, WINDOW_BYTES, at - BLOCK_BYTES) if at else bytes(BLOCK_BYTES) + os.pread(fd, WINDOW_BYTES - 512, 0)
        for at in header_at_N.tolist()
    ]
    data = b"".join(window.ljust(WINDOW_BYTES, b"\0") for window in windows)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, WINDOW_BYTES)


def _differs(found_NB: npt.NDArray[np.uint8], expected: Iterable[bytes]) -> npt.NDArray[np.bool_]:
    expected_NB = np.frombuffer(b"".join(expected), dtype=np.uint8).reshape(found_NB.shape)
    return (found_NB != expected_NB).any(axis=1)


def _has_wrong_checksum(found_NB: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The checksum is the sum of the header's bytes, with its own as blanks: six octal digits, a zero and a blank."""
    sums_N = found_NB[:, BLOCK_BYTES : 2 * BLOCK_BYTES].sum(axis=1, dtype=np.int64)
    sums_N += 8 * ord(" ") - found_NB[:, CHECKSUM].sum(axis=1, dtype=np.int64)
    return _differs(found_NB[:, CHECKSUM], (b"%06o\0 " % each for each in sums_N.tolist()))


def _npy_header(dtype: np.dtype[Any], count: int) -> bytes:
    """What a .npy file of `count` numbers starts with: the magic, version 1.0, and the description of the array."""
    fields = b"{'descr': '%b', 'fortran_order': False, 'shape': (%d,), }" % (dtype.str.encode(), count)
    return b"\x93NUMPY\x01\x00\x76\x00" + fields.ljust(NPY_HEADER_BYTES - 11) + b"\n"


def _damage(path: str, at_bytes: int, what: str) -> CorpusError:
    return CorpusError(f"{path} is damaged at byte {at_bytes}: {what}: {REMEDY}")
