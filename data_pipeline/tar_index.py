"""Where the tokens lie in a tar shard, found by walking its headers and believing none of them unchecked.

Ordinary tar readers end quietly at a damaged header or at the end of a shortened file. Here every byte outside the
payloads is checked: the checksum of each header, the padding, two zero blocks at the end, zeros from there on.
"""

import io
import mmap
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import CorpusError
from data_pipeline.shard_writer import DOC_LENS_SUFFIX, TOKENS_SUFFIX

BLOCK_BYTES = 512
NPY_HEADER_MAX_BYTES = 4096


@dataclass(frozen=True)
class ShardIndex:
    """The members of tokens of one shard, in order; both arrays int64, of shape (members,)."""

    offset_bytes: npt.NDArray[np.int64]
    """Of each member's first token in the file."""
    num_tokens: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Member:
    name: str
    header_at: int
    data_at: int
    size_bytes: int


def index_shard(path: Path, dtype: npt.DTypeLike) -> ShardIndex:
    """Return where the tokens of a shard lie, reading its headers only.

    Raises CorpusError that names the shard and the byte offset of the first fault.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing: bring it back, or prepare the corpus again")
    if path.stat().st_size == 0:
        raise _fault(path, 0, "the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        members = _walk(path, data)
        if len(members) % 2:
            raise _fault(path, members[-1].header_at, f"{members[-1].name} has no partner")
        found = [
            _tokens_of(path, data, tokens, doc_lens, np.dtype(dtype))
            for tokens, doc_lens in zip(members[::2], members[1::2], strict=True)
        ]
    offsets, counts = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return ShardIndex(offsets, counts)


def _walk(path: Path, data: mmap.mmap) -> list[_Member]:
    members, at = [], 0
    while True:
        header = data[at : at + BLOCK_BYTES]
        if len(header) < BLOCK_BYTES:
            raise _fault(path, at, "the file is cut short here")
        if not header.strip(b"\0"):
            break
        member = _member(path, header, at)
        end = member.data_at + member.size_bytes
        at = -(-end // BLOCK_BYTES) * BLOCK_BYTES
        if at > len(data):
            raise _fault(path, member.header_at, f"{member.name} runs past the end of the file")
        if data[end:at].strip(b"\0"):
            raise _fault(path, end, f"the padding of {member.name} is not zero")
        members.append(member)
    if len(data) < at + 2 * BLOCK_BYTES:
        raise _fault(path, at, "the file does not end in two blocks of zeros")
    if data[at:].strip(b"\0"):
        raise _fault(path, at, "the archive ends here, but bytes other than zero follow")
    return members


def _member(path: Path, header: bytes, at: int) -> _Member:
    checksum = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if header[148:156] != b"%06o\0 " % checksum:
        raise _fault(path, at, "the header's checksum is wrong")
    name = header[:100].rstrip(b"\0").decode("ascii", errors="replace")
    if header[156:157] != b"0":
        raise _fault(path, at, f"{name} is not a regular file")
    return _Member(name, at, at + BLOCK_BYTES, int(header[124:136].rstrip(b"\0 "), 8))


def _tokens_of(
    path: Path, data: mmap.mmap, tokens: _Member, doc_lens: _Member, dtype: np.dtype[Any]
) -> tuple[int, int]:
    """Return (offset in bytes, number of tokens) of a sample."""
    key = tokens.name.removesuffix(TOKENS_SUFFIX)
    if (tokens.name, doc_lens.name) != (key + TOKENS_SUFFIX, key + DOC_LENS_SUFFIX):
        raise _fault(path, tokens.header_at, f"{tokens.name} and {doc_lens.name} are not a sample of tokens")
    head = io.BytesIO(data[tokens.data_at : tokens.data_at + min(tokens.size_bytes, NPY_HEADER_MAX_BYTES)])
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("not version 1.0")
        shape, _, stored = np.lib.format.read_array_header_1_0(head)
    except (ValueError, TypeError, SyntaxError, TokenError) as error:  # all of these leave numpy's parser
        raise _fault(path, tokens.data_at, f"{tokens.name} is not a .npy array ({error})") from error
    if len(shape) != 1 or stored != dtype:
        raise _fault(path, tokens.data_at, f"{tokens.name} is {stored} of shape {shape}, not a row of {dtype} tokens")
    if head.tell() + shape[0] * dtype.itemsize != tokens.size_bytes:
        raise _fault(
            path, tokens.data_at, f"{tokens.name} has {tokens.size_bytes} bytes, not those of {shape[0]} tokens"
        )
    return tokens.data_at + head.tell(), shape[0]


def _fault(path: Path, at: int, what: str) -> CorpusError:
    return CorpusError(f"{path} is damaged at byte {at}: {what}; copy it anew, or prepare the corpus again")
