"""Which tokens make up global sample g: sources, mixture, order and packing together.

g -> mixture -> the k-th sample of one source -> order -> the source's sample number -> packing -> its tokens
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import UnreachableError, UnreadableError
from foretrain.data_pipeline.stream.batch import Batch, IntArray, Replacement
from foretrain.data_pipeline.stream.mixture import Mixture
from foretrain.data_pipeline.stream.order import Order, permute
from foretrain.data_pipeline.stream.packing import Samples

MAX_ATTEMPTS = 32
"""Samples that are tried in place of one that cannot be read. If all of them fail, the samples are not at fault."""

MAX_CHUNK = 4096
"""Neighbouring global samples whose draws are computed together and kept for later calls."""
MAX_CHUNKS = 8

MAX_DRAWS_AHEAD = 2**17
"""Samples of a source whose shards are looked up ahead. Over more samples, a full shuffle needs every shard anyway."""


@dataclass(frozen=True)
class Source:
    """One corpus of the mixture."""

    name: str
    """Empty for the only source of a run that does not name it."""
    stream: TokenStream
    samples: Samples
    order: Order


@dataclass(frozen=True)
class Location:
    """Where a global sample comes from."""

    source: Source
    epoch: int
    """Epoch of the source, from 0."""
    sample: int
    """Number of the sample in its source."""


class SampleStream:
    """The global samples of a run, by number g from 0. Reading is a pure function of g; several threads may read.

    If a sample cannot be read, UnreadableError is raised. With `replaces_unreadable` another sample of the same source
    takes its place; it is always the same one if the same samples can be read.
    """

    def __init__(
        self, sources: Sequence[Source], mixture: Mixture, seq_len: int, seed: int, *, replaces_unreadable: bool = False
    ) -> None:
        self.sources = list(sources)
        self.mixture = mixture
        self.seq_len = seq_len
        self.has_positions = self.sources[0].samples.has_positions
        self.has_padding = any(source.samples.has_padding for source in self.sources)
        self.seed = seed
        self._replaces_unreadable = replaces_unreadable
        # To draw thousands of samples takes hardly longer than to draw one. Two threads may draw the same chunk.
        self._chunks: dict[int, IntArray] = {}
        # Each epoch has its own order, so a chunk should not span many epochs of a small source.
        self._chunk_size = min(MAX_CHUNK, max(16, min(source.samples.num_samples for source in sources)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chunks": {}}

    def locate(self, g: IntArray) -> list[Location]:
        """Return where each of the global samples comes from."""
        located: list[Location] = [None] * len(g)  # type: ignore[list-item]  # every entry is filled in
        for source, rows, epoch, sample in self._by_source(g):
            for row, e, s in zip(rows, epoch, sample, strict=True):
                located[row] = Location(source, int(e), int(s))
        return located

    def read(self, g: IntArray) -> Batch:
        """Return the global samples g, shape (B,), side by side in this order."""
        batch = self.sources[0].samples.new_batch(len(g))
        batch.samples_B = g
        for source, rows, _, sample in self._by_source(g):
            try:
                _read(source, sample, batch, rows)
            except UnreachableError:  # later it can be read, and the sample must be the same then
                raise
            except UnreadableError:
                if not self._replaces_unreadable:
                    raise
                self._read_one_by_one(source, g, rows, sample, batch)
        return batch

    def prefetch(self, g: int, num_samples: int) -> None:
        """Let remote sources fetch the shards that hold the `num_samples` global samples from g on."""
        if all(source.stream.store.is_local for source in self.sources):
            return
        end = g + num_samples if self.mixture.num_samples is None else min(g + num_samples, self.mixture.num_samples)
        before, after = self.mixture.counts(g), self.mixture.counts(end)
        for source, first, last in zip(self.sources, before, after, strict=True):
            if not source.stream.store.is_local and last > first:
                shards = source.order.shards_ahead(int(first), min(int(last - first), MAX_DRAWS_AHEAD))
                source.stream.store.prefetch([source.stream.shard_names[shard] for shard in shards])

    def _by_source(self, g: IntArray) -> Iterator[tuple[Source, IntArray, IntArray, IntArray]]:
        """Yield (source, its places in g, their epochs, their samples) for every source that is drawn."""
        number, epoch, sample = self._draws(g)
        if len(self.sources) == 1:
            yield self.sources[0], np.arange(len(g)), epoch, sample
            return
        for each in np.unique(number):
            rows = np.flatnonzero(number == each)
            yield self.sources[each], rows, epoch[rows], sample[rows]

    def _draws(self, g: IntArray) -> IntArray:
        """Return (number of the source, its epoch, its sample) of each g, shape (3, len(g))."""
        if len(g) == 0:
            return np.empty((3, 0), dtype=np.int64)
        first, last = int(g.min()) // self._chunk_size, int(g.max()) // self._chunk_size
        if last - first >= MAX_CHUNKS:
            return self._draw(g)
        chunks = [self._chunk(chunk) for chunk in range(first, last + 1)]
        return (chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1))[:, g - first * self._chunk_size]

    def _chunk(self, number: int) -> IntArray:
        """Return the draws of a chunk of global samples, shape (3, chunk size), or fewer if the mixture ends."""
        found = self._chunks.get(number)
        if found is None:
            start = number * self._chunk_size
            end = start + self._chunk_size
            if self.mixture.num_samples is not None:
                end = min(end, self.mixture.num_samples)
            found = self._draw(np.arange(start, max(start + 1, end)))
            while len(self._chunks) >= MAX_CHUNKS:
                self._chunks.pop(next(iter(self._chunks)), None)
            self._chunks[number] = found
        return found

    def _draw(self, g: IntArray) -> IntArray:
        number, k = self.mixture.locate(g)
        draws = np.empty((3, len(g)), dtype=np.int64)
        draws[0] = number
        for each in np.unique(number):
            here = number == each
            draws[1, here], draws[2, here] = self.sources[each].order.at(k[here])
        return draws

    def _read_one_by_one(self, source: Source, g: IntArray, rows: IntArray, sample: IntArray, batch: Batch) -> None:
        for row, each in zip(rows, sample, strict=True):
            try:
                _read(source, np.array([each]), batch, np.array([row]))
            except UnreachableError:
                raise
            except UnreadableError as error:
                used = self._read_another(source, int(each), batch, int(row), error)
                batch.replaced.append(
                    Replacement(int(g[row]), source.name, int(each), used, error.shard, error.offset_bytes, str(error))
                )

    def _read_another(self, source: Source, sample: int, batch: Batch, row: int, first: UnreadableError) -> int:
        """Fill a row with the first readable sample of a fixed sequence of others, and return its number."""
        for attempt in range(MAX_ATTEMPTS):
            key = f"replace/{self.seed}/{source.name}/{attempt}".encode()
            other = permute(np.array([sample]), source.samples.num_samples, key)
            try:
                _read(source, other, batch, np.array([row]))
            except UnreachableError:
                raise
            except UnreadableError:
                continue
            return int(other[0])
        raise UnreadableError(
            f"{first}; nor can any of {MAX_ATTEMPTS} other samples be read",
            first.shard,
            first.offset_bytes,
            first.is_passing,
            first.is_full,
        ) from first


def _read(source: Source, samples: IntArray, batch: Batch, rows: IntArray) -> None:
    """Fill rows of a batch with samples of a source. If reading fails, their padding is not counted."""
    num_padding = batch.num_padding
    try:
        source.samples.read(samples, batch, rows)
    except UnreadableError:
        batch.num_padding = num_padding
        raise
