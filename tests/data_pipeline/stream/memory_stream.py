"""A token stream in memory, with documents of any lengths and shards that begin anywhere.

Processes import this module, so it does not import pytest.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.corpus.store import FolderStore, Store
from foretrain.data_pipeline.errors import UnreadableError
from foretrain.data_pipeline.stream.batch import IntArray
from foretrain.data_pipeline.stream.packing import open_samples

EOT = 0


@dataclass
class MemoryStream:
    """A stream in which every token but the EOTs is its position + 1, so that a token says where it comes from."""

    folder: Path
    doc_lens: Sequence[int]
    cuts: Sequence[int] = ()
    """Positions at which the shards after the first begin, in ascending order."""
    fingerprint: str = "f" * 64
    log: Path | None = None
    """File that gets a line each time the documents of a shard are read."""
    killed_at_shard: int | None = None
    """Shard at whose documents the process kills itself."""
    seconds_per_shard: float = 0.0
    """Seconds that reading the documents of a shard takes."""
    unreadable_from: int | None = None
    """Position from which on tokens cannot be read."""
    split: str = "train"
    eot_id: int = EOT
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint32))

    def __post_init__(self) -> None:
        self.ends: IntArray = np.cumsum(self.doc_lens, dtype=np.int64)
        self.starts: IntArray = self.ends - np.asarray(self.doc_lens)
        self.num_tokens = int(self.ends[-1])
        self.tokens = np.arange(1, self.num_tokens + 1, dtype=self.dtype)
        self.tokens[self.ends - 1] = EOT
        self.shard_starts: IntArray = np.array([0, *self.cuts, self.num_tokens], dtype=np.int64)
        self.shard_names = [f"{self.split}-{shard:06d}.tar" for shard in range(len(self.cuts) + 1)]
        self.store: Store = FolderStore(self.folder)

    def as_stream(self) -> TokenStream:
        """Return this object, typed as the stream that it replaces."""
        return cast(TokenStream, self)

    def read(self, start: int, count: int) -> np.ndarray:
        """Return a copy of tokens [start, start + count)."""
        assert 0 <= start <= start + count <= self.num_tokens
        if self.unreadable_from is not None and start + count > self.unreadable_from:
            raise UnreadableError("gone", self.shard_names[0], 0)
        return self.tokens[start : start + count].copy()

    def read_rows(self, starts: IntArray, out_NC: IntArray) -> None:
        """Fill row n with the tokens from starts[n] on."""
        for row, start in zip(out_NC, starts.tolist(), strict=True):
            row[:] = self.read(start, len(row))

    def document_starts(self, shard: int) -> IntArray:
        """Return the starts of the documents that begin in a shard."""
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {shard}\n")
        time.sleep(self.seconds_per_shard)
        if shard == self.killed_at_shard:
            os.kill(os.getpid(), signal.SIGKILL)
        first, end = self.shard_starts[shard : shard + 2]
        return self.starts[(self.starts >= first) & (self.starts < end)]


def pack_and_count(stream: MemoryStream, seq_len: int) -> int:
    """Open a best-fit packing and return its number of samples. It is the work of a process."""
    return open_samples(stream.as_stream(), seq_len, "best_fit").num_samples
