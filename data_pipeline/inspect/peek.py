"""One global sample: its tokens as training gets them, and the place of each part of it in the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenPlace, TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IGNORE, IntArray, Replacement
from foretrain.data_pipeline.stream.data import Data
from foretrain.data_pipeline.stream.packing import Span
from foretrain.data_pipeline.stream.samples import Source

END = 2**62
"""All numbers of global samples are smaller."""


@dataclass(frozen=True)
class DocumentPart:
    """Consecutive tokens of one document, at positions [at, at + count) of the sample."""

    at: int
    count: int
    start: int
    """Position of the first token in the stream of its source."""
    num_before: int
    """Earlier tokens of the document; 0 if the document begins here."""
    place: TokenPlace
    """Place of the first token in the corpus."""


@dataclass(frozen=True)
class SampleInfo:
    """One global sample, and where it comes from."""

    g: int
    source: Source
    epoch: int
    """Epoch of the source, from 0."""
    sample: int
    """Number, in its source, of the sample that was read."""
    stage: str
    """Stage of the mixture; empty for the stage with the weights of the sources themselves."""
    tokens_L: IntArray
    parts: list[DocumentPart]
    """In the order of positions. An EOT that is only the first input of the next document is in no part."""
    spans: list[Span]
    """Tokens of the source's stream that the inputs are."""
    num_padding: int
    """Positions at the end that hold no token of the corpus."""
    num_ignored: int
    """Targets that carry no loss."""
    replaced: Replacement | None
    """The sample that the order asks for, if it could not be read."""


def check(g: int, count: int) -> None:
    """Raise ValueError if global samples [g, g + count) cannot exist."""
    if count < 1:
        raise ValueError(f"--count {count} must be at least 1")
    if not 0 <= g <= END - count:
        raise ValueError(f"there is no global sample {g}: samples are numbered from 0, and end before {END}")


def inspect_sample(data: Data, g: int) -> SampleInfo:
    """Return global sample g. Raises ValueError beyond the end of the mixture, and CorpusError if it is unreadable."""
    (location,) = data.train.locate(np.array([g]))
    batch = data.train.read(np.array([g]))
    replaced = batch.replaced[0] if batch.replaced else None
    sample = replaced.used if replaced else location.sample
    spans = location.source.samples.spans(sample)
    tokens_L = batch.tokens_BL[0]
    return SampleInfo(
        g=g,
        source=location.source,
        epoch=location.epoch,
        sample=sample,
        stage=data.stage_names[data.train.mixture.stage(g)],
        tokens_L=tokens_L,
        parts=[part for span in spans for part in _parts(location.source.stream, span, tokens_L)],
        spans=spans,
        num_padding=batch.num_padding,
        num_ignored=int((batch.targets_BL == IGNORE).sum()),
        replaced=replaced,
    )


def _parts(stream: TokenStream, span: Span, tokens_L: IntArray) -> Iterator[DocumentPart]:
    """Yield the parts of a span, document by document."""
    end = span.start + span.count
    begins = _document_starts(stream, span.start, end)
    edges = [span.start, *begins[begins > span.start].tolist(), end]
    for start, stop in pairwise(edges):
        at = span.at + start - span.start
        is_only_first_input = start == span.start and stop == start + 1 < end and tokens_L[at] == stream.eot_id
        if not is_only_first_input:
            document = int(begins[np.searchsorted(begins, start, side="right") - 1])
            yield DocumentPart(at, stop - start, start, start - document, stream.where(start))


def _document_starts(stream: TokenStream, first: int, end: int) -> IntArray:
    """Return the starts of the documents that have tokens in [first, end). The first may start before `first`."""
    shard, last = np.searchsorted(stream.shard_starts, [first, end - 1], side="right") - 1
    starts = np.concatenate([stream.document_starts(each) for each in range(shard, last + 1)])
    while not len(starts) or starts[0] > first:  # the document begins in an earlier shard
        shard -= 1
        if shard < 0:
            raise CorpusError(
                f"no document of {stream.folder} begins before token {first}: run `foretrain data verify`, and prepare "
                "the corpus again"
            )
        starts = np.concatenate([stream.document_starts(shard), starts])
    inside = np.searchsorted(starts, [first, end - 1], side="right")
    return starts[inside[0] - 1 : inside[1]]
