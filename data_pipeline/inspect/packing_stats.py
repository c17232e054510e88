"""What a packing costs: padding, tokens that are never a target, and documents that are cut."""

from dataclasses import dataclass

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.inspect.document_lengths import LengthCounter, Lengths
from foretrain.data_pipeline.stream.documents import documents_by_shard
from foretrain.data_pipeline.stream.packing import Samples
from foretrain.progress import Advance


@dataclass(frozen=True)
class PackingStats:
    """Counts of one epoch."""

    num_samples: int
    num_padding: int
    """Positions of samples that hold no token of the corpus."""
    padding_share: float
    """Share of all positions of the samples."""
    num_unused: int
    """Tokens that are no sample's target."""
    num_documents: int
    num_truncated: int
    """Documents that are not completely in one sample."""
    truncated_share: float
    """Share of all documents."""


def count_documents(
    stream: TokenStream, samples: Samples, seq_len: int, advance: Advance = lambda num_bytes: None
) -> tuple[Lengths, PackingStats]:
    """Count the documents of a stream; only their lengths are read.

    `advance` is called with the stored size of the tokens of each shard. Raises CorpusError if the lengths do not add
    up to the tokens of the stream.
    """
    counter = LengthCounter()
    num_truncated = 0
    for documents in documents_by_shard(stream):
        begin_here = documents.starts_D >= documents.first
        starts, ends = documents.starts_D[begin_here], documents.ends_D[begin_here]
        counter.add(ends - starts)
        num_truncated += int(samples.is_truncated(starts, ends).sum())
        advance((documents.end - documents.first) * stream.dtype.itemsize)
    lengths = counter.lengths()
    num_positions = samples.num_samples * seq_len
    return lengths, PackingStats(
        num_samples=samples.num_samples,
        num_padding=num_positions - samples.num_targets,
        padding_share=(num_positions - samples.num_targets) / num_positions,
        num_unused=stream.num_tokens - samples.num_targets,
        num_documents=lengths.num_documents,
        num_truncated=num_truncated,
        truncated_share=num_truncated / lengths.num_documents,
    )
