"""The held-out text of which tasks make problems: complete documents, spread evenly over the held-out splits.

Which documents these are, and how much of each is read, depends on the text alone. So models with other tokenizers get
the same problems, if the text was divided into train and held-out documents in the same way.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from tokenizers import Tokenizer

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.data import Data
from foretrain.data_pipeline.stream.held_out import spread

MAX_DOCUMENTS = 128
MAX_CHARS = 1 << 21
"""Characters that are read of all documents together: the beginning of each, as long as that of the others."""


class HeldOutText:
    """Documents of held-out streams, which are read when they are first asked for."""

    def __init__(self, streams: Sequence[TokenStream]) -> None:
        self._streams = streams

    @classmethod
    def of(cls, data: Data) -> "HeldOutText":
        """That of all sources of a run's data, also of those of weight 0."""
        return cls([source.stream for source in data.held_out])

    @property
    def where(self) -> str:
        """The corpora, in words."""
        return ", ".join(str(stream.folder) for stream in self._streams) or "no corpus"

    @cached_property
    def documents(self) -> list[str]:
        """The documents of all streams, as many of each. Raises CorpusError if they cannot be read."""
        return [text for stream in self._streams for text in _documents(stream, len(self._streams))]


NO_TEXT = HeldOutText(())


def _documents(stream: TokenStream, num_streams: int) -> Iterator[str]:
    """Documents of one of several streams. Of one that goes over the end of a shard, the part where it ends."""
    tokenizer = Tokenizer.from_buffer(stream.read_tokenizer())
    ends = list(accumulate(shard.num_documents for shard in stream.manifest.splits[stream.split].shards))
    chosen = spread(max(1, MAX_DOCUMENTS // num_streams), ends[-1]).tolist()
    starts: dict[int, list[int]] = {}
    for number in chosen:
        shard = bisect_right(ends, number)
        if shard not in starts:
            first, end = stream.shard_starts[shard : shard + 2].tolist()
            starts = {shard: np.unique([first, *stream.document_starts(shard).tolist(), end]).tolist()}
        place = number - (ends[shard - 1] if shard else 0)
        if place + 1 >= len(starts[shard]):
            raise CorpusError(
                f"{stream.shard_names[shard]} of {stream.folder} has fewer documents than its manifest says: run "
                "`foretrain data verify`, and prepare the corpus again"
            )
        start, end = starts[shard][place : place + 2]
        yield _text(stream, tokenizer, start, end - 1, MAX_CHARS // (num_streams * len(chosen)))


def _text(stream: TokenStream, tokenizer: Tokenizer, start: int, end: int, at_most: int) -> str:
    """The first `at_most` characters of the tokens [start, end)."""
    count = at_most // 2
    while True:
        stop = min(end, start + count)
        text = tokenizer.decode(stream.read(start, stop - start).tolist(), skip_special_tokens=False)
        if stop == end or len(text) > at_most:  # more, since the last character may be a part of one
            return text[:at_most]
        count *= 2
