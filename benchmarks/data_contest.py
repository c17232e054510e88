"""What all contestants of the data benchmark share: the tokens they read, and what they must hand out.

Shape letters: B samples of a batch, L positions of a sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VOCAB_SIZE = 50_000
EOT_ID = 0
MEAN_DOCUMENT_TOKENS = 1000
SIGMA = 1.0
"""Of the logarithm of the documents' lengths: the longest of 100,000 is some 40 times the mean."""

CHUNK_TOKENS = 1 << 22

FLAT = "flat.bin"
ENDS = "ends.npy"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SourceTokens:
    """The tokens that every contestant writes in its own format."""

    tokens: npt.NDArray[np.uint16]
    ends: npt.NDArray[np.int64]
    """One past each document's last token, which is EOT_ID."""

    def documents(self) -> Iterator[npt.NDArray[np.uint16]]:
        """Yield each document, its EOT included."""
        start = 0
        for end in self.ends.tolist():
            yield self.tokens[start:end]
            start = end

    def num_samples(self, seq_len: int) -> int:
        return (len(self.tokens) - 1) // seq_len

    def samples(self, seq_len: int) -> Iterator[npt.NDArray[np.uint16]]:
        """Yield the windows of seq_len + 1 tokens, of which each begins with the last token of the one before."""
        for start in range(0, self.num_samples(seq_len) * seq_len, seq_len):
            yield self.tokens[start : start + seq_len + 1]


@dataclass(frozen=True)
class Settings:
    """What is asked of every contestant."""

    seq_len: int
    batch_size: int
    num_workers: int
    """Worker processes of a peer; threads that read ahead for ours. 0: all in the caller's thread."""
    seed: int = 0


@dataclass
class Loader:
    """A contestant that is ready to be read."""

    epoch: Callable[[], Iterator[Any]]
    """Begins an epoch, the first one at the point of resume, and yields int64 batches of tokens and targets as one
    (B, L + 1) array or tensor of which both are views, or as a pair of shape (B, L); only full ones."""
    state: Callable[[], Any] | None = None
    """What `open` needs to go on after the last batch; None: it cannot, and the batches before must be skipped."""


@dataclass(frozen=True)
class Contestant:
    """One way to keep tokens on disk and to read shuffled batches of them."""

    name: str
    write: Callable[[SourceTokens, Path, Settings], None]
    """Writes its files into an empty folder."""
    open: Callable[[Path, Settings, Any], Loader]
    """Opens its files from the folder; the last argument is a state, or None."""
    modules: tuple[str, ...] = ()
    """Imported before any clock runs; the first is the one that may be missing."""
    workers: tuple[int, ...] = (0,)
    """Values of `num_workers` to try; the fastest is taken."""
    is_peer: bool = False
    """A library that ours must be faster than."""
    note: str = ""


def write_source(folder: Path, num_tokens: int, seed: int) -> None:
    """Write `num_tokens` tokens in documents of log-normal lengths; a token's frequency is as one over its rank."""
    rng = np.random.default_rng(seed)
    mean = np.log(MEAN_DOCUMENT_TOKENS) - SIGMA**2 / 2
    lengths = rng.lognormal(mean, SIGMA, size=2 * num_tokens // MEAN_DOCUMENT_TOKENS + 64).astype(np.int64) + 2
    ends = np.cumsum(lengths)
    ends = np.append(ends[ends < num_tokens], num_tokens)
    tokens = np.memmap(folder / FLAT, dtype=np.uint16, mode="w+", shape=(num_tokens,))
    for start in range(0, num_tokens, CHUNK_TOKENS):
        count = min(CHUNK_TOKENS, num_tokens - start)
        tokens[start : start + count] = VOCAB_SIZE ** rng.random(count, dtype=np.float32)
    np.clip(tokens, 1, VOCAB_SIZE - 1, out=tokens)
    tokens[ends - 1] = EOT_ID
    tokens.flush()
    np.save(folder / ENDS, ends)


def open_source(folder: Path) -> SourceTokens:
    """Open what `write_source` wrote."""
    return SourceTokens(np.asarray(np.memmap(folder / FLAT, dtype=np.uint16, mode="r")), np.load(folder / ENDS))


def as_pair(batch: Any) -> tuple[Any, Any]:
    """The tokens and the targets of what an epoch yields."""
    return batch if isinstance(batch, tuple) else (batch[:, :-1], batch[:, 1:])
