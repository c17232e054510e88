"""What all contestants of the data benchmark share: the tokens that they read, and the batches that they yield.

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
"""Standard deviation of the logarithm of the lengths; the longest of 100,000 documents is about 40 means long."""

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
        """Yield each document, with its EOT."""
        start = 0
        for end in self.ends.tolist():
            yield self.tokens[start:end]
            start = end

    def num_samples(self, seq_len: int) -> int:
        """Return the number of windows of seq_len tokens."""
        return (len(self.tokens) - 1) // seq_len

    def samples(self, seq_len: int) -> Iterator[npt.NDArray[np.uint16]]:
        """Yield windows of seq_len + 1 tokens; each begins with the last token of the previous window."""
        for start in range(0, self.num_samples(seq_len) * seq_len, seq_len):
            yield self.tokens[start : start + seq_len + 1]


@dataclass(frozen=True)
class Settings:
    """Settings for every contestant."""

    seq_len: int
    batch_size: int
    num_workers: int
    """Worker processes of a peer; threads that read ahead for this library. 0: all work is in the caller's thread."""
    seed: int = 0


@dataclass
class Loader:
    """The open files of a contestant."""

    epoch: Callable[[], Iterator[Any]]
    """Yields the full batches of an epoch; the first epoch begins at the point of resume. A batch is a pair of int64
    tokens and targets of shape (B, L), or one (B, L + 1) array or tensor of which both are views."""
    state: Callable[[], Any] | None = None
    """Returns what `open` needs to resume after the last batch. None: it cannot resume, and batches must be skipped."""


@dataclass(frozen=True)
class Contestant:
    """One way to store tokens and to read shuffled batches of them."""

    name: str
    write: Callable[[SourceTokens, Path, Settings], None]
    """Writes its files into an empty folder."""
    open: Callable[[Path, Settings, Any], Loader]
    """Opens the files in a folder; the last argument is a state, or None."""
    modules: tuple[str, ...] = ()
    """Modules that are imported before the clock starts; a contestant whose modules are missing is left out."""
    workers: tuple[int, ...] = (0,)
    """Values of `num_workers` to try; the fastest counts."""
    is_peer: bool = False
    """Whether it is another library, which this one must beat."""
    note: str = ""


def write_source(folder: Path, num_tokens: int, seed: int) -> None:
    """Write `num_tokens` tokens in documents of log-normal lengths; the frequency of a token is about 1 / its rank."""
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
    """Return the tokens that `write_source` wrote."""
    return SourceTokens(np.asarray(np.memmap(folder / FLAT, dtype=np.uint16, mode="r")), np.load(folder / ENDS))


def as_pair(batch: Any) -> tuple[Any, Any]:
    """Return the tokens and the targets of a batch that an epoch yielded."""
    return batch if isinstance(batch, tuple) else (batch[:, :-1], batch[:, 1:])


def counted_loader(num_given: int | None, per_epoch: int, read: Callable[[int, int], Iterator[Any]]) -> Loader:
    """Return a loader whose state is the number of batches so far.

    `read(epoch, first)` yields the batches of an epoch from number `first` on.
    """
    count = num_given or 0

    def epoch() -> Iterator[Any]:
        nonlocal count
        for batch in read(*divmod(count, per_epoch)):
            count += 1
            yield batch

    return Loader(epoch, lambda: count)
