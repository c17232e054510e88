"""What a packing costs: padding, tokens that are never a target, and documents that are cut."""

from dataclasses import dataclass

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.stream.best_fit_plan import documents_by_shard
from foretrain.data_pipeline.stream.packing import BestFit, Samples


@dataclass(frozen=True)
class PackingStats:
    """Counts of one epoch."""

    num_samples: int
    num_padding: int
    """Positions of samples that hold no token of the corpus."""
    padding_share: float
    """Of all positions of the samples."""
    num_unused: int
    """Tokens that are no sample's target."""
    num_documents: int
    num_truncated: int
    """Documents that do not lie in one sample whole."""
    truncated_share: float
    """Of all documents."""


def packing_stats(stream: TokenStream, samples: Samples, seq_len: int) -> PackingStats:
    """Count over all documents of a stream, reading their lengths only. Raises CorpusError as a packing does."""
    whole_documents = isinstance(samples, BestFit)
    num_documents = num_truncated = 0
    for starts, ends, first, _ in documents_by_shard(stream):
        here = starts >= first
        starts, ends = starts[here], ends[here]
        if whole_documents:
            is_truncated = ends - starts > seq_len
        else:  # inputs begin at the EOT before the document, and end before its own
            first_window, last_window = np.maximum(starts - 1, 0) // seq_len, np.maximum(ends - 2, 0) // seq_len
            is_truncated = (first_window != last_window) | (last_window >= samples.num_samples)
        num_documents += len(starts)
        num_truncated += int(is_truncated.sum())
    num_positions = samples.num_samples * seq_len
    num_targets = stream.num_tokens if whole_documents else num_positions
    return PackingStats(
        num_samples=samples.num_samples,
        num_padding=num_positions - num_targets,
        padding_share=(num_positions - num_targets) / num_positions,
        num_unused=stream.num_tokens - num_targets,
        num_documents=num_documents,
        num_truncated=num_truncated,
        truncated_share=num_truncated / max(1, num_documents),
    )
