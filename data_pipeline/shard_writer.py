"""Write documents of tokens as WebDataset shards whose bytes depend on the tokens only.

A sample is two members of a USTAR archive: KEY.tokens.npy, the tokens of one or more documents, and KEY.doc_lens.npy,
the int64 lengths of these documents. A document longer than MAX_PART_BYTES is cut into parts, each with its own length.
"""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.manifest import ShardInfo, SplitInfo, sha256_of

MAX_PART_BYTES = 4 << 20
TOKENS_SUFFIX = ".tokens.npy"
DOC_LENS_SUFFIX = ".doc_lens.npy"


class SplitWriter:
    """Writes the shards of one split into a folder.

    A member closes at the first end of a document (or part) past `block_bytes` of tokens, a shard at the first end of a
    member past `shard_tokens`.
    """

    def __init__(self, folder: Path, split: str, *, block_bytes: int, shard_tokens: int) -> None:
        self._folder, self._split = folder, split
        self._block_bytes, self._shard_tokens = block_bytes, shard_tokens
        self._shards: list[ShardInfo] = []
        self._num_members = 0
        self._num_text_bytes = 0
        self._block = _Block()
        self._shard: _OpenShard | None = None

    def add(self, tokens: npt.NDArray[Any], num_text_bytes: int) -> None:
        """Append one document, its end-of-text token included."""
        self._num_text_bytes += num_text_bytes
        part_tokens = MAX_PART_BYTES // tokens.itemsize
        for start in range(0, len(tokens), part_tokens):
            part = tokens[start : start + part_tokens]
            self._block.add(part, ends_document=start + len(part) == len(tokens))
            if self._block.num_tokens * tokens.itemsize >= self._block_bytes:
                self._close_block()

    def close(self) -> SplitInfo:
        """Write what is left and return the record of the split."""
        if self._block.parts:
            self._close_block()
        if self._shard is not None:
            self._close_shard()
        return SplitInfo(
            num_tokens=sum(shard.num_tokens for shard in self._shards),
            num_documents=sum(shard.num_documents for shard in self._shards),
            num_bytes=self._num_text_bytes,
            shards=self._shards,
        )

    def _close_block(self) -> None:
        if self._shard is None:
            self._shard = _OpenShard(self._folder / f"{self._split}-{len(self._shards):06d}.tar")
        self._shard.add(f"{self._split}-{self._num_members:09d}", self._block)
        self._num_members += 1
        self._block = _Block()
        if self._shard.num_tokens >= self._shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shards.append(self._shard.close())
        self._shard = None


class _Block:
    """The documents that become one sample."""

    def __init__(self) -> None:
        self.parts: list[npt.NDArray[Any]] = []
        self.num_tokens = 0
        self.num_documents = 0

    def add(self, part: npt.NDArray[Any], *, ends_document: bool) -> None:
        self.parts.append(part)
        self.num_tokens += len(part)
        self.num_documents += ends_document


class _OpenShard:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)
        self.num_tokens = self._num_documents = self._num_members = 0

    def add(self, key: str, block: _Block) -> None:
        self._add_member(key + TOKENS_SUFFIX, np.concatenate(block.parts))
        self._add_member(key + DOC_LENS_SUFFIX, np.array([len(part) for part in block.parts], dtype="<i8"))
        self.num_tokens += block.num_tokens
        self._num_documents += block.num_documents
        self._num_members += 1

    def _add_member(self, name: str, array: npt.NDArray[Any]) -> None:
        payload = io.BytesIO()
        np.save(payload, array, allow_pickle=False)
        info = tarfile.TarInfo(name)  # owner, group and time are 0: nothing of this machine or moment enters the bytes
        info.size = payload.tell()
        payload.seek(0)
        self._tar.addfile(info, payload)

    def close(self) -> ShardInfo:
        self._tar.close()
        return ShardInfo(
            name=self._path.name,
            num_tokens=self.num_tokens,
            num_documents=self._num_documents,
            num_members=self._num_members,
            size_bytes=self._path.stat().st_size,
            sha256=sha256_of(self._path),
        )
