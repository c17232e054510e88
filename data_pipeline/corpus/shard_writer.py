"""Write documents of tokens as WebDataset shards whose bytes depend on the tokens only.

A sample is two members of a USTAR archive: KEY.tokens.npy, the tokens of one or more documents, and KEY.doc_lens.npy,
the int64 lengths of these documents. A document longer than MAX_PART_BYTES is cut into parts, each with its own length.
The offsets of all arrays are written beside the shards, in the index of the split.
"""

import io
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.index import IndexRows, IntArray
from foretrain.data_pipeline.corpus.manifest import ShardInfo, SplitInfo, index_name, sha256_of
from foretrain.data_pipeline.errors import CorpusError

MAX_PART_BYTES = 4 << 20
TOKENS_SUFFIX = ".tokens.npy"
DOC_LENS_SUFFIX = ".doc_lens.npy"
LENS_DTYPE = np.dtype("<i8")


def member_key(split: str, number: int) -> str:
    """Return the name of a sample without its suffix; the numbers run through all shards of a split."""
    return f"{split}-{number:09d}"


@dataclass(frozen=True)
class WriterState:
    """The state of a SplitWriter between two documents. With the bytes on disk it is enough to resume."""

    shards: list[ShardInfo]
    """The finished shards."""
    open_shard: ShardInfo | None
    """The unfinished shard, as far as it is written; it has no hash."""
    num_text_bytes: int
    rows: IntArray
    """Rows of the index; shape (num_members, 5)."""
    block_lens: IntArray
    """Lengths of the documents that are collected for the next sample."""
    block_tokens: npt.NDArray[Any]


class SplitWriter:
    """Writer of the shards of one split into a folder.

    A sample ends with the first document (or part) that reaches `block_bytes` of tokens, and a shard with the first
    sample that reaches `shard_tokens`. Given a `state`, the writer resumes from it, and removes what was written later.
    Raises CorpusError if the shards in the folder are not those of the state.
    """

    def __init__(
        self, folder: Path, split: str, *, block_bytes: int, shard_tokens: int, state: WriterState | None = None
    ) -> None:
        self._folder, self._split = folder, split
        self._block_bytes, self._shard_tokens = block_bytes, shard_tokens
        self._shards: list[ShardInfo] = []
        self._rows = IndexRows()
        self._num_members = 0
        self._num_text_bytes = 0
        self._block = _Block()
        self._shard: _OpenShard | None = None
        if state is not None:
            self._restore(state)

    def abandon(self) -> None:
        """Close the file of the open shard. Otherwise it could be written later, when another writer has it."""
        if self._shard is not None:
            self._shard.abandon()

    def state(self) -> WriterState:
        """Return the state after the last document, after all bytes that it counts on are safe on the disk."""
        return WriterState(
            shards=list(self._shards),
            open_shard=None if self._shard is None else self._shard.sync(),
            num_text_bytes=self._num_text_bytes,
            rows=self._rows.to_array(),
            block_lens=np.array([len(part) for part in self._block.parts], dtype=np.int64),
            block_tokens=np.concatenate(self._block.parts) if self._block.parts else np.zeros(0, dtype=np.uint16),
        )

    def _restore(self, state: WriterState) -> None:
        for shard in [*state.shards, *([state.open_shard] if state.open_shard else [])]:
            path = self._folder / shard.name
            size_bytes = path.stat().st_size if path.is_file() else 0
            if size_bytes < shard.size_bytes or (size_bytes > shard.size_bytes and shard is not state.open_shard):
                raise CorpusError(f"{path} has {size_bytes} bytes, but {shard.size_bytes} were written")
        self._shards = list(state.shards)
        self._rows = IndexRows(state.rows)
        self._num_members = len(state.rows)
        self._num_text_bytes = state.num_text_bytes
        for part in np.split(state.block_tokens, np.cumsum(state.block_lens)[:-1]) if len(state.block_lens) else ():
            self._block.add(part, ends_document=True)
        if state.open_shard is not None:
            self._shard = _OpenShard(self._folder / state.open_shard.name, state.open_shard)

    def add(self, tokens: npt.NDArray[Any], num_text_bytes: int) -> None:
        """Append one document, which includes its end-of-text token."""
        self._num_text_bytes += num_text_bytes
        part_tokens = MAX_PART_BYTES // tokens.itemsize
        for start in range(0, len(tokens), part_tokens):
            part = tokens[start : start + part_tokens]
            self._block.add(part, ends_document=start + len(part) == len(tokens))
            if self._block.num_tokens * tokens.itemsize >= self._block_bytes:
                self._close_block()

    def close(self) -> SplitInfo:
        """Write the last shard and the index, and return the record of the split."""
        if self._block.parts:
            self._close_block()
        if self._shard is not None:
            self._close_shard()
        index = self._folder / index_name(self._split)
        self._rows.write(index)
        return SplitInfo(
            num_tokens=sum(shard.num_tokens for shard in self._shards),
            num_documents=sum(shard.num_documents for shard in self._shards),
            num_bytes=self._num_text_bytes,
            index_sha256=sha256_of(index),
            shards=self._shards,
        )

    def _close_block(self) -> None:
        if self._shard is None:
            self._shard = _OpenShard(self._folder / f"{self._split}-{len(self._shards):06d}.tar")
        tokens_at, lens_at = self._shard.add(member_key(self._split, self._num_members), self._block)
        self._rows.add(
            num_tokens=self._block.num_tokens,
            tokens_at=tokens_at,
            lens_at=lens_at,
            num_lens=len(self._block.parts),
            num_documents=self._block.num_documents,
        )
        self._num_members += 1
        self._block = _Block()
        if self._shard.num_tokens >= self._shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shards.append(self._shard.close())
        self._shard = None


class _Block:
    """The documents that are collected for one sample."""

    def __init__(self) -> None:
        self.parts: list[npt.NDArray[Any]] = []
        self.num_tokens = 0
        self.num_documents = 0

    def add(self, part: npt.NDArray[Any], *, ends_document: bool) -> None:
        self.parts.append(part)
        self.num_tokens += len(part)
        self.num_documents += ends_document


class _OpenShard:
    def __init__(self, path: Path, written: ShardInfo | None = None) -> None:
        self._path = path
        self._file = path.open("wb" if written is None else "r+b")
        if written is not None:
            self._file.truncate(written.size_bytes)
            self._file.seek(written.size_bytes)
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (`close`)
        self.num_tokens = written.num_tokens if written else 0
        self._num_documents = written.num_documents if written else 0
        self._num_members = written.num_members if written else 0

    def add(self, key: str, block: _Block) -> tuple[int, int]:
        """Return the byte offsets of the first token and of the first length in the file."""
        tokens_at = self._add_member(key + TOKENS_SUFFIX, np.concatenate(block.parts))
        lens = np.array([len(part) for part in block.parts], dtype="<i8")
        lens_at = self._add_member(key + DOC_LENS_SUFFIX, lens)
        self.num_tokens += block.num_tokens
        self._num_documents += block.num_documents
        self._num_members += 1
        return tokens_at, lens_at

    def _add_member(self, name: str, array: npt.NDArray[Any]) -> int:
        payload = io.BytesIO()
        np.save(payload, array, allow_pickle=False)
        info = tarfile.TarInfo(name)  # its owner, group and time are 0, whatever the machine and the moment
        info.size = payload.tell()
        data_at = self._tar.offset + tarfile.BLOCKSIZE + info.size - array.nbytes
        payload.seek(0)
        self._tar.addfile(info, payload)
        return data_at

    def sync(self) -> ShardInfo:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._info(self._file.tell(), "")

    def abandon(self) -> None:
        with suppress(OSError):  # a full disk, whose error was raised before
            self._file.close()

    def close(self) -> ShardInfo:
        self._tar.close()
        self._file.close()
        return self._info(self._path.stat().st_size, sha256_of(self._path))

    def _info(self, size_bytes: int, sha256: str) -> ShardInfo:
        return ShardInfo(
            self._path.name, self.num_tokens, self._num_documents, self._num_members, size_bytes, sha256=sha256
        )
