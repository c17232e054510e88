"""What one global sample is: its tokens as training gets them, and where in the corpus each part of it lies."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenPlace, TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IGNORE, IntArray, Replacement
from foretrain.data_pipeline.stream.data import Data
from foretrain.data_pipeline.stream.packing import Stretch
from foretrain.data_pipeline.stream.samples import Source

LAST = 2**62
"""No global sample has this number, nor a higher one."""


@dataclass(frozen=True)
class Part:
    """Tokens in a row of one document, at positions [at, at + count) of the sample."""

    at: int
    count: int
    start: int
    """Of the first token, in the stream of its source."""
    num_before: int
    """Tokens of the document before it: 0 where it begins here."""
    place: TokenPlace
    """Of the first token."""


@dataclass(frozen=True)
class Look:
    """One global sample."""

    g: int
    source: Source
    epoch: int
    """Of the source, from 0."""
    sample: int
    """Of the source: the one that was read."""
    stage: str
    """Of the mixture; empty where the sources' own weights hold."""
    tokens_L: IntArray
    parts: list[Part]
    """In the order of positions. An EOT that only leads in the document after it is in none."""
    stretches: list[Stretch]
    """Of the source's stream."""
    num_padding: int
    """Positions at the end that hold no token of the corpus."""
    num_ignored: int
    """Targets that carry no loss."""
    replaced: Replacement | None
    """Why the sample is not the one that the order asks for."""


def check(g: int, count: int) -> None:
    """Raise ValueError unless there can be such global samples."""
    if count < 1:
        raise ValueError(f"--count {count} must be at least 1")
    if not 0 <= g <= LAST - count:
        raise ValueError(f"there is no global sample {g}: samples are numbered from 0, and end before {LAST}")


def look(data: Data, g: int) -> Look:
    """Return the global sample g. Raises ValueError beyond the end of the mixture, and CorpusError."""
    (location,) = data.train.locate(np.array([g]))
    batch = data.train.read(np.array([g]))
    replaced = batch.replaced[0] if batch.replaced else None
    sample = replaced.used if replaced else location.sample
    stretches = location.source.samples.stretches(sample)
    tokens_L = batch.tokens_BL[0]
    return Look(
        g=g,
        source=location.source,
        epoch=location.epoch,
        sample=sample,
        stage=data.stage_names[data.train.mixture.stage(g)],
        tokens_L=tokens_L,
        parts=[part for stretch in stretches for part in _parts(location.source.stream, stretch, tokens_L)],
        stretches=stretches,
        num_padding=batch.num_padding,
        num_ignored=int((batch.targets_BL == IGNORE).sum()),
        replaced=replaced,
    )


def _parts(stream: TokenStream, stretch: Stretch, tokens_L: IntArray) -> Iterator[Part]:
    """Yield a stretch document by document."""
    end = stretch.start + stretch.count
    begins = _document_starts(stream, stretch.start, end)
    edges = [stretch.start, *begins[begins > stretch.start].tolist(), end]
    for start, stop in pairwise(edges):
        at = stretch.at + start - stretch.start
        leads_in = start == stretch.start and stop == start + 1 < end and tokens_L[at] == stream.eot_id
        if not leads_in:
            document = int(begins[np.searchsorted(begins, start, side="right") - 1])
            yield Part(at, stop - start, start, start - document, stream.where(start))


def _document_starts(stream: TokenStream, first: int, end: int) -> IntArray:
    """Return where the documents begin that have tokens in [first, end): the first of them begins there or before."""
    shard, last = np.searchsorted(stream.shard_starts, [first, end - 1], side="right") - 1
    starts = np.concatenate([stream.document_starts(each) for each in range(shard, last + 1)])
    while not len(starts) or starts[0] > first:  # the document began in a shard before
        shard -= 1
        if shard < 0:
            raise CorpusError(
                f"no document of {stream.folder} begins before token {first}: run `foretrain data verify`, and prepare "
                "the corpus again"
            )
        starts = np.concatenate([stream.document_starts(shard), starts])
    inside = np.searchsorted(starts, [first, end - 1], side="right")
    return starts[inside[0] - 1 : inside[1]]
