"""The documents of a stream of tokens, read shard by shard.

Shape letters: D documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IntArray


@dataclass(frozen=True)
class ShardDocuments:
    """The documents that have tokens in one shard. All positions are positions in the stream."""

    starts_D: IntArray
    ends_D: IntArray
    """Document d is tokens [starts_D[d], ends_D[d]). The first document may begin in an earlier shard."""
    first: int
    """First token of the shard."""
    end: int
    """One past the last token of the shard."""


def documents_by_shard(stream: TokenStream) -> Iterator[ShardDocuments]:
    """Yield the documents of each shard, in order; the documents of one shard are in memory at a time.

    Raises CorpusError if the lengths of the documents do not add up to the tokens of the stream.
    """
    starts: IntArray = np.empty(0, dtype=np.int64)
    waiting: list[int] = []
    edges = stream.shard_starts.tolist()
    for shard, (first, end) in enumerate(pairwise(edges)):
        found = stream.document_starts(shard)
        inside = np.concatenate([[first - 1], found, [end]])
        if (np.diff(inside) <= 0).any() or (shard == 0 and end > 0 and (len(found) == 0 or found[0] != 0)):
            raise CorpusError(
                f"the lengths of documents in {stream.shard_names[shard]} of {stream.folder} do not add up to its "
                "tokens: run `foretrain data verify`, and prepare the corpus again"
            )
        if len(found):
            yield from _completed(starts, int(found[0]), waiting, edges)
            starts, waiting = np.concatenate([starts[-1:], found]), []
        waiting.append(shard)
    yield from _completed(starts, stream.num_tokens, waiting, edges)


def _completed(starts: IntArray, end: int, shards: list[int], edges: list[int]) -> Iterator[ShardDocuments]:
    """Yield shards whose last document is now known to end at `end`.

    All documents begin in the first of the shards; the last document fills the other shards.
    """
    for shard in shards:
        yield ShardDocuments(starts, np.append(starts[1:], end), edges[shard], edges[shard + 1])
        starts = starts[-1:]
