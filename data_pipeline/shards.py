"""A split of a corpus as one long stream of tokens, of which any stretch can be read.

The stream is the members of the shards in the order of the manifest, end to end. A sample of length L is the window
[i * L, i * L + L], one token longer than L, so that every token but the first is predicted once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import CorpusError
from data_pipeline.manifest import SPLITS, TOKENIZER, Manifest, ShardInfo, sha256_of
from data_pipeline.progress import byte_progress
from data_pipeline.tar_index import ShardIndex, index_shard


@dataclass(frozen=True)
class _StreamIndex:
    """The members of all shards; int64 arrays of shape (members,), `start` of shape (members + 1,)."""

    shard: npt.NDArray[np.int64]
    offset_bytes: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    """Position in the stream of each member's first token; at the end, the length of the stream."""


class TokenStream:
    """The tokens of one split. Reading is safe from several threads."""

    def __init__(self, folder: Path, manifest: Manifest, split: str, index: _StreamIndex) -> None:
        shards = manifest.splits[split].shards
        self.folder = folder
        self.split = split
        self.dtype = np.dtype(manifest.dtype)
        self.vocab_size = manifest.vocab_size
        self.eot_id = manifest.eot_id
        self.num_tokens = int(index.start[-1])
        self.fingerprint = _fingerprint(manifest, split)
        """Changes with any token of the split, their order, and the tokenizer."""
        self._index = index
        self._paths = [folder / shard.name for shard in shards]
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}

    def num_samples(self, seq_len: int) -> int:
        """Return the number of windows of seq_len + 1 tokens; raise CorpusError where there is none."""
        num_samples = (self.num_tokens - 1) // seq_len
        if num_samples < 1:
            raise CorpusError(
                f"the {self.split} split of {self.folder} has {self.num_tokens} tokens, and one sample of "
                f"seq_len = {seq_len} needs {seq_len + 1}: shorten seq_len or prepare more text"
            )
        return num_samples

    def window(self, i: int, seq_len: int) -> npt.NDArray[Any]:
        """Return tokens [i * seq_len, i * seq_len + seq_len] of the stream, shape (seq_len + 1,)."""
        return self.read(i * seq_len, seq_len + 1)

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        """Return a copy of tokens [start, start + count), across members and shards, shape (count,)."""
        assert 0 <= start <= start + count <= self.num_tokens, (
            f"tokens [{start}, {start + count}) are not within the {self.num_tokens} of the stream"
        )
        tokens = np.empty(count, dtype=self.dtype)
        member = int(np.searchsorted(self._index.start, start, side="right")) - 1
        done = 0
        while done < count:
            skip = start + done - int(self._index.start[member])
            take = min(count - done, int(self._index.start[member + 1] - self._index.start[member]) - skip)
            at = int(self._index.offset_bytes[member]) + skip * self.dtype.itemsize
            stored = self._map(int(self._index.shard[member]))[at : at + take * self.dtype.itemsize]
            tokens[done : done + take] = stored.view(self.dtype)
            done += take
            member += 1
        return tokens

    def _map(self, shard: int) -> npt.NDArray[np.uint8]:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._paths[shard], dtype=np.uint8, mode="r")
        return self._maps[shard]


def open_corpus(path: str | Path, split: str) -> TokenStream:
    """Return the stream of a split ("train" or "val") of a folder that `prepare` wrote.

    Every shard's size and structure is checked, its tokens are not: that is `verify`. Raises CorpusError naming the
    shard, and the byte where there is one.
    """
    folder = Path(path)
    manifest = Manifest.read(folder)
    if split not in manifest.splits:
        raise CorpusError(f"{folder} has no split {split!r}: choose one of {', '.join(manifest.splits)}")
    shards = manifest.splits[split].shards
    if not shards:
        raise CorpusError(f"the {split} split of {folder} is empty: prepare a corpus of at least two documents")
    indices = [_checked_index(folder, shard, manifest.dtype) for shard in shards]
    num_tokens = np.concatenate([index.num_tokens for index in indices])
    index = _StreamIndex(
        shard=np.repeat(np.arange(len(indices)), [len(index.num_tokens) for index in indices]),
        offset_bytes=np.concatenate([index.offset_bytes for index in indices]),
        start=np.concatenate([[0], np.cumsum(num_tokens)]),
    )
    return TokenStream(folder, manifest, split, index)


def verify(path: str | Path, progress: bool = False) -> Manifest:
    """Return the manifest of a corpus after reading every byte of it; raise CorpusError that lists every fault."""
    folder = Path(path)
    manifest = Manifest.read(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    faults = []
    if not (folder / TOKENIZER).is_file() or sha256_of(folder / TOKENIZER) != manifest.tokenizer_sha256:
        faults.append(f"{folder / TOKENIZER} is missing or has changed: bring back the one the shards were made with")
    with byte_progress("verifying", sum(shard.size_bytes for shard in shards), enabled=progress) as advance:
        for shard in shards:
            try:
                _checked_index(folder, shard, manifest.dtype)
                if sha256_of(folder / shard.name) != shard.sha256:
                    raise CorpusError(
                        f"{folder / shard.name} has other bytes than were written (SHA-256): copy it anew"
                    )
            except CorpusError as error:
                faults.append(str(error))
            advance(shard.size_bytes)
    known = {shard.name for shard in shards}
    for split in SPLITS:
        strangers = (file for file in sorted(folder.glob(f"{split}-*.tar")) if file.name not in known)
        faults += [f"{file} is not in the manifest: remove it" for file in strangers]
    if faults:
        raise CorpusError("\n".join(faults))
    return manifest


def _checked_index(folder: Path, shard: ShardInfo, dtype: str) -> ShardIndex:
    """Return the index of a shard that agrees with the manifest."""
    path = folder / shard.name
    index = index_shard(path, dtype)
    size_bytes = path.stat().st_size
    if size_bytes != shard.size_bytes:
        raise CorpusError(f"{path} has {size_bytes} bytes, and {shard.size_bytes} were written: copy it anew")
    found = len(index.num_tokens), int(index.num_tokens.sum())
    if found != (shard.num_members, shard.num_tokens):
        raise CorpusError(
            f"{path} holds {found[1]} tokens in {found[0]} members, and the manifest says {shard.num_tokens} in "
            f"{shard.num_members}: it is another shard, so copy it anew"
        )
    return index


def _fingerprint(manifest: Manifest, split: str) -> str:
    parts = [manifest.tokenizer_sha256, *(shard.sha256 for shard in manifest.splits[split].shards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
