"""Where the tokens lie in a tar shard, found by walking its headers and believing none of them unchecked.

Ordinary tar readers end quietly at a damaged header or at the end of a shortened file. Here every byte outside the
payloads is checked: the checksum of each header, the padding, two zero blocks at the end, zeros from there on. The file
is read and not mapped: one that is cut meanwhile, or a disk that fails, is then an error and not a signal.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.shard_writer import DOC_LENS_SUFFIX, TOKENS_SUFFIX
from foretrain.data_pipeline.errors import CorpusError

IntArray = npt.NDArray[np.int64]

BLOCK_BYTES = 512
NPY_HEADER_BYTES = 128
"""Of an array with one dimension, as numpy writes it."""
NPY_HEADER_MAX_BYTES = 4096
WINDOW_BYTES = 2 * BLOCK_BYTES + NPY_HEADER_BYTES
"""What is read of each member at once: the block before it, which pads the one before; its header; what follows."""
CHECKED_AT_ONCE = 4096
"""Members, an even number: both of a sample are checked together."""
READ_BYTES = 1 << 20
DENSE_READ_BYTES = 1 << 16
"""What is read at once where members are small: many headers."""
LENS_DTYPE = np.dtype("<i8")
SUFFIXES = (TOKENS_SUFFIX.encode(), DOC_LENS_SUFFIX.encode())
NPY_MAGIC = b"\x93NUMPY\x01\x00\x76\x00"
"""Version 1.0, and what its header has after these bytes: 118 more."""
ZERO_BLOCK = bytes(BLOCK_BYTES)
NAME_BYTES, CHECKSUM, TYPE = 100, slice(148, 156), 156
"""Of a header's fields in it."""
SIZE_IN_WINDOW = slice(BLOCK_BYTES + 124, BLOCK_BYTES + 135)
"""Octal digits, and one byte that ends them."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, in order; arrays of shape (num_members,), int64 but for the keys."""

    keys: npt.NDArray[np.bytes_]
    tokens_at: IntArray
    """Byte offset in the file of each sample's first token."""
    num_tokens: IntArray
    lens_at: IntArray
    """Byte offset of the first of the lengths of its documents."""
    num_lens: IntArray


def index_shard(path: Path, dtype: npt.DTypeLike) -> ShardIndex:
    """Return where the tokens of a shard lie, reading its headers only.

    Raises CorpusError that names the shard and the byte offset of the first fault.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing: bring it back, or prepare the corpus again")
    try:
        with path.open("rb", buffering=0) as file:
            return index_open_shard(file.fileno(), str(path), dtype)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error}): copy it anew, or prepare the corpus again") from error


def index_open_shard(fd: int, path: str, dtype: npt.DTypeLike) -> ShardIndex:
    """Return where the tokens lie in a shard that is open; `path` names it in messages. Raises CorpusError, OSError."""
    if os.fstat(fd).st_size == 0:
        raise _fault(path, 0, "the file is empty")
    keys, tokens, lens = [], [], []
    for members in _walk(fd, path):
        tokens_members, lens_members = members.every_other(0), members.every_other(1)
        keys.append(_keys(path, tokens_members, lens_members))
        tokens.append(_arrays(fd, path, tokens_members, np.dtype(dtype), "tokens"))
        lens.append(_arrays(fd, path, lens_members, LENS_DTYPE, "lengths"))
    return ShardIndex(np.concatenate(keys), *np.concatenate(tokens).T, *np.concatenate(lens).T)


@dataclass(frozen=True)
class _Members:
    """N members of an archive, in order; arrays of shape (N,), but for the windows."""

    windows_NW: npt.NDArray[np.uint8]
    """The WINDOW_BYTES from the block before the header on."""
    header_at: IntArray
    size_bytes: IntArray
    padding_bytes: IntArray
    """Which belong to the member before."""

    def __len__(self) -> int:
        return len(self.header_at)

    @property
    def headers(self) -> npt.NDArray[np.uint8]:
        return self.windows_NW[:, BLOCK_BYTES : 2 * BLOCK_BYTES]

    @property
    def names(self) -> npt.NDArray[np.bytes_]:
        return np.ascontiguousarray(self.headers[:, :NAME_BYTES]).view(f"S{NAME_BYTES}")[:, 0]

    @property
    def ends(self) -> IntArray:
        """Where the next headers begin."""
        return self.header_at + BLOCK_BYTES - -self.size_bytes // BLOCK_BYTES * BLOCK_BYTES

    def name(self, i: int) -> str:
        return str(self.names[i].decode("ascii", errors="replace"))

    def every_other(self, first: int) -> "_Members":
        return self._at(slice(first, None, 2))

    def until(self, end: int) -> "_Members":
        return self._at(slice(end))

    def _at(self, rows: slice) -> "_Members":
        return _Members(self.windows_NW[rows], self.header_at[rows], self.size_bytes[rows], self.padding_bytes[rows])


def _walk(fd: int, path: str) -> Iterator[_Members]:
    """Yield the members, CHECKED_AT_ONCE at a time, all before the first fault, which is then raised."""
    file_bytes = os.fstat(fd).st_size
    at = padding_bytes = 0
    is_last = False
    while not is_last:
        members = _members_from(fd, at, padding_bytes)
        is_last = len(members) < CHECKED_AT_ONCE
        sound, fault = _sound(path, members, file_bytes)
        if len(members):
            at, padding_bytes = int(members.ends[-1]), int(-members.size_bytes[-1] % BLOCK_BYTES)
        if is_last and fault is None:
            fault = _end_fault(fd, path, at, padding_bytes)
        if is_last and fault is None and len(sound) % 2:
            fault = _fault(path, int(sound.header_at[-1]), f"{sound.name(-1)} has no partner")
        yield sound
        if fault is not None:
            raise fault


def _members_from(fd: int, at: int, padding_bytes: int) -> _Members:
    """Return what lies at the next CHECKED_AT_ONCE headers, or all to one that tells no size: none is checked yet."""
    windows, header_at, sizes = [], [], []
    buffer, buffer_at, size_bytes = b"", 0, 0
    for _ in range(CHECKED_AT_ONCE):  # the one loop over all headers: what can be done for many at once is done later
        offset = at - BLOCK_BYTES - buffer_at
        if offset + WINDOW_BYTES > len(buffer):
            num_bytes = DENSE_READ_BYTES if size_bytes < DENSE_READ_BYTES // 8 else WINDOW_BYTES
            buffer = os.pread(fd, num_bytes, at - BLOCK_BYTES) if at else ZERO_BLOCK + os.pread(fd, num_bytes, 0)
            offset, buffer_at = 0, at - BLOCK_BYTES
        window = buffer[offset : offset + WINDOW_BYTES]
        try:
            size_bytes = int(window[SIZE_IN_WINDOW], 8)
        except ValueError:  # zeros, or nothing
            break
        if size_bytes < 0:
            break
        windows.append(window)
        header_at.append(at)
        sizes.append(size_bytes)
        at += BLOCK_BYTES + (size_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES
    if windows and len(windows[-1]) < 2 * BLOCK_BYTES:
        windows, header_at, sizes = windows[:-1], header_at[:-1], sizes[:-1]
    if windows:
        windows[-1] = windows[-1].ljust(WINDOW_BYTES, b"\0")
    windows_NW = np.frombuffer(b"".join(windows), dtype=np.uint8).reshape(-1, WINDOW_BYTES)
    size_N = np.array(sizes, dtype=np.int64)
    padding_N = np.concatenate([[padding_bytes], -size_N[:-1] % BLOCK_BYTES])[: len(size_N)]
    return _Members(windows_NW, np.array(header_at, dtype=np.int64), size_N, padding_N)


def _sound(path: str, members: _Members, file_bytes: int) -> tuple[_Members, CorpusError | None]:
    """Return the members up to the first fault in a header or in the padding before it, and that fault."""
    is_padding_NB = np.arange(BLOCK_BYTES) >= BLOCK_BYTES - members.padding_bytes[:, None]
    faults = {
        "the padding before this header is not zero": (members.windows_NW[:, :BLOCK_BYTES] * is_padding_NB).any(axis=1),
        "the header's checksum is wrong": _has_wrong_checksum(members.headers),
        "it is not a regular file": members.headers[:, TYPE] != ord("0"),
        "it runs past the end of the file": members.ends > file_bytes,
    }
    is_faulty = np.any(list(faults.values()), axis=0)
    if not is_faulty.any():
        return members, None
    first = int(is_faulty.argmax())
    what = next(what for what, is_so in faults.items() if is_so[first])
    fault = _fault(path, int(members.header_at[first]), f"{what} ({members.name(first)!r})")
    return members.until(first), fault


def _has_wrong_checksum(headers_NB: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The checksum is the sum of the header's bytes, its own taken as blanks: six octal digits, a zero, a blank."""
    stored_NB = headers_NB[:, CHECKSUM]
    sums_N = headers_NB.sum(axis=1, dtype=np.int64) - stored_NB.sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    digits_NB = (sums_N[:, None] >> np.arange(15, -1, -3)) % 8 + ord("0")
    return (stored_NB[:, :6] != digits_NB).any(axis=1) | (stored_NB[:, 6:] != (0, ord(" "))).any(axis=1)


def _end_fault(fd: int, path: str, at: int, padding_bytes: int) -> CorpusError | None:
    """What is wrong from the padding of the last member to the end of the file, if anything is."""
    if os.pread(fd, padding_bytes, at - padding_bytes).strip(b"\0"):
        return _fault(path, at - padding_bytes, "the padding of the last member is not zero")
    header = os.pread(fd, BLOCK_BYTES, at)
    if len(header) < BLOCK_BYTES:
        return _fault(path, at, "the file is cut short here")
    if header != ZERO_BLOCK:
        return _fault(path, at, "neither the header of a member nor a block of zeros begins here")
    num_bytes = 0
    while chunk := os.pread(fd, READ_BYTES, at + num_bytes):
        if chunk.strip(b"\0"):
            return _fault(path, at + num_bytes, "the archive ended before, but bytes other than zero follow")
        num_bytes += len(chunk)
    if num_bytes < 2 * BLOCK_BYTES:
        return _fault(path, at, "the file does not end in two blocks of zeros")
    return None


def _keys(path: str, tokens: _Members, lens: _Members) -> npt.NDArray[np.bytes_]:
    """Return what the names of each pair of members share; the last of the tokens may be alone."""
    names = tokens.names[: len(lens)], lens.names
    keys = np.array([name.removesuffix(SUFFIXES[0]) for name in names[0].tolist()], dtype=np.bytes_)
    expected = [np.char.add(keys, suffix) for suffix in SUFFIXES]
    wrong = np.flatnonzero((expected[0] != names[0]) | (expected[1] != names[1]))
    if len(wrong):
        i = int(wrong[0])
        what = f"{tokens.name(i)} and {lens.name(i)} are not a sample of tokens"
        raise _fault(path, int(tokens.header_at[i]), what)
    return keys


def _arrays(fd: int, path: str, members: _Members, dtype: np.dtype[Any], what: str) -> IntArray:
    """Return (byte offset, length) of the row of numbers that each .npy member holds, shape (members, 2)."""
    counts, rest = np.divmod(members.size_bytes - NPY_HEADER_BYTES, dtype.itemsize)
    is_usual = (rest == 0) & _has_usual_npy_header(members.windows_NW[:, 2 * BLOCK_BYTES :], counts, dtype)
    arrays = np.stack([members.header_at + BLOCK_BYTES + NPY_HEADER_BYTES, counts], axis=1)
    for i in np.flatnonzero(~is_usual).tolist():
        data_at = int(members.header_at[i]) + BLOCK_BYTES
        arrays[i] = _parsed(fd, path, members.name(i), data_at, int(members.size_bytes[i]), dtype, what)
    return arrays


def _has_usual_npy_header(
    heads_NB: npt.NDArray[np.uint8], counts_N: IntArray, dtype: np.dtype[Any]
) -> npt.NDArray[np.bool_]:
    """Whether a payload begins as numpy begins a row of that many numbers: 128 bytes that differ in a few digits."""
    num_digits_N = np.searchsorted(10 ** np.arange(1, 16), counts_N, side="right") + 1
    is_usual_N = np.zeros(len(counts_N), dtype=bool)
    for num_digits in np.unique(num_digits_N).tolist():
        rows = np.flatnonzero((num_digits_N == num_digits) & (counts_N >= 0))
        fields = b"{'descr': '%b', 'fortran_order': False, 'shape': (%b,), }"
        header = NPY_MAGIC + (fields % (dtype.str.encode(), b"@" * num_digits)).ljust(NPY_HEADER_BYTES - 11) + b"\n"
        expected_NB = np.tile(np.frombuffer(header, dtype=np.uint8), (len(rows), 1))
        digits_at = header.index(b"@")
        powers = 10 ** np.arange(num_digits - 1, -1, -1)
        expected_NB[:, digits_at : digits_at + num_digits] = counts_N[rows, None] // powers % 10 + ord("0")
        is_usual_N[rows] = (heads_NB[rows] == expected_NB).all(axis=1)
    return is_usual_N


def _parsed(
    fd: int, path: str, name: str, data_at: int, size_bytes: int, dtype: np.dtype[Any], what: str
) -> tuple[int, int]:
    """Return (byte offset, length) of the row of numbers that a .npy member holds, whatever its header looks like."""
    head = io.BytesIO(os.pread(fd, min(size_bytes, NPY_HEADER_MAX_BYTES), data_at))
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("not version 1.0")
        shape, _, stored = np.lib.format.read_array_header_1_0(head)
    except (ValueError, TypeError, SyntaxError, TokenError) as error:  # all of these leave numpy's parser
        raise _fault(path, data_at, f"{name} is not a .npy array ({error})") from error
    if len(shape) != 1 or stored != dtype:
        raise _fault(path, data_at, f"{name} is {stored} of shape {shape}, not a row of {dtype} {what}")
    if head.tell() + shape[0] * dtype.itemsize != size_bytes:
        raise _fault(path, data_at, f"{name} has {size_bytes} bytes, not those of {shape[0]} {what}")
    return data_at + head.tell(), shape[0]


def _fault(path: str, at: int, what: str) -> CorpusError:
    return CorpusError(f"{path} is damaged at byte {at}: {what}; copy it anew, or prepare the corpus again")
