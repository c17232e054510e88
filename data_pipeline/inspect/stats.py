"""The numbers of a run's data: what its sources hold, how often it sees them, how well they are packed and shuffled.

No token is read but those that say how long documents are.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.inspect.document_lengths import LengthCounter, Lengths
from foretrain.data_pipeline.inspect.order_quality import ShuffleQuality, shuffle_quality
from foretrain.data_pipeline.inspect.packing_stats import PackingStats, packing_stats
from foretrain.data_pipeline.inspect.target import source_paths
from foretrain.data_pipeline.stream.best_fit_plan import documents_by_shard
from foretrain.data_pipeline.stream.data import Data, open_data
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.samples import Source
from foretrain.progress import byte_progress


@dataclass(frozen=True)
class SplitStats:
    """The size of one split."""

    num_tokens: int
    """The EOT token of each document included."""
    num_documents: int
    num_text_bytes: int
    """In UTF-8."""
    bytes_per_token: float
    num_shards: int
    num_members: int
    """Samples in WebDataset's sense."""
    size_bytes: int
    """Of the shards' files."""


@dataclass(frozen=True)
class SourceStats:
    """One source of the mixture."""

    name: str
    """Empty where the run names none."""
    path: str
    fingerprint: str
    train: SplitStats
    held_out: SplitStats
    packing: PackingStats
    """Of the train split."""
    lengths: Lengths
    """Of the train split's documents."""
    weight: float
    """Share of the samples that its weight asks for before the first stage."""
    max_epochs: float | None
    num_drawn: int
    """Samples that the run takes from it."""
    drawn_share: float
    """Of all samples of the run."""
    epochs: float
    """How often the run sees it."""
    shuffle: dict[str, ShuffleQuality]
    """By data.order: what each does to this source, in global batches of its share."""


@dataclass(frozen=True)
class StageStats:
    """A stretch of the run with constant weights."""

    name: str
    """Empty for the sources' own weights."""
    from_tokens: int
    to_tokens: int
    """Both rounded up to whole samples; equal where the run ends before the stage begins."""
    weights: dict[str, float]
    """Share of the samples that is asked for, by source."""
    drawn: dict[str, int]
    """Samples that are taken."""


@dataclass(frozen=True)
class Budget:
    """How much of the data the run takes, and how."""

    seq_len: int
    packing: str
    order: str
    shuffle_window: int
    seed: int
    num_tokens: int
    """Of whole steps: train.num_tokens, rounded up."""
    global_batch_size: int
    num_steps: int
    num_samples: int
    num_available: int | None
    """Samples until all sources have reached their max_epochs; None: there is no end."""


@dataclass(frozen=True)
class Stats:
    """All of it."""

    budget: Budget
    sources: list[SourceStats]
    stages: list[StageStats]
    """At least one."""
    data_fingerprint: str
    mixture_fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def collect(config: Config, *, progress: bool = False) -> Stats:
    """Return the numbers of the data of a config. Raises CorpusError and ValueError as `open_data` does."""
    data = open_data(config.data, config.model.seq_len, progress=progress)
    budget = _budget(config, data)
    taken = min(budget.num_samples, budget.num_available or budget.num_samples)
    drawn = data.train.mixture.counts(taken).tolist()
    lengths = _all_lengths(data, progress)
    paths = source_paths(config.data)
    weights = _shares({share.name: share.weight for share in data.train.mixture.sources})
    sources = []
    for number, source in enumerate(data.train.sources):
        share = drawn[number] / taken if taken else 0.0
        sources.append(
            SourceStats(
                name=source.name,
                path=paths[source.name],
                fingerprint=source.stream.fingerprint,
                train=_split(source.stream),
                held_out=_split(data.held_out[number].stream),
                packing=packing_stats(source.stream, source.samples, budget.seq_len),
                lengths=lengths[number],
                weight=weights[source.name],
                max_epochs=data.train.mixture.sources[number].max_epochs,
                num_drawn=drawn[number],
                drawn_share=share,
                epochs=drawn[number] / source.samples.num_samples,
                shuffle=_shuffle(source, max(1, round(share * budget.global_batch_size)), budget.shuffle_window),
            )
        )
    return Stats(budget, sources, _stages(data, taken), data.fingerprint, data.mixture_fingerprint)


def _budget(config: Config, data: Data) -> Budget:
    seq_len, batch_size = config.model.seq_len, config.train.global_batch_size
    num_steps = math.ceil(config.train.num_tokens / (batch_size * seq_len))
    return Budget(
        seq_len=seq_len,
        packing=config.data.packing,
        order=config.data.order,
        shuffle_window=config.data.shuffle_window,
        seed=config.data.seed,
        num_tokens=num_steps * batch_size * seq_len,
        global_batch_size=batch_size,
        num_steps=num_steps,
        num_samples=num_steps * batch_size,
        num_available=data.train.mixture.num_samples,
    )


def _split(stream: TokenStream) -> SplitStats:
    split = stream.manifest.splits[stream.split]
    return SplitStats(
        num_tokens=split.num_tokens,
        num_documents=split.num_documents,
        num_text_bytes=split.num_bytes,
        bytes_per_token=split.num_bytes / split.num_tokens,
        num_shards=len(split.shards),
        num_members=sum(shard.num_members for shard in split.shards),
        size_bytes=sum(shard.size_bytes for shard in split.shards),
    )


def _all_lengths(data: Data, progress: bool) -> list[Lengths]:
    """Return the lengths of the documents of each source, read shard by shard."""
    streams = [source.stream for source in data.train.sources]
    total_bytes = sum(stream.num_tokens * stream.dtype.itemsize for stream in streams)
    all_lengths = []
    with byte_progress("reading the lengths of documents", total_bytes, enabled=progress) as advance:
        for stream in streams:
            counter = LengthCounter()
            for starts, ends, first, end in documents_by_shard(stream):
                begins_here = starts >= first
                counter.add((ends - starts)[begins_here])
                advance((end - first) * stream.dtype.itemsize)
            all_lengths.append(counter.lengths())
    return all_lengths


def _shuffle(source: Source, batch_size: int, window: int) -> dict[str, ShuffleQuality]:
    starts, key = source.order.shard_starts, source.order.key
    return {
        "shuffle": shuffle_quality(Order(starts, key, None), batch_size),
        "local": shuffle_quality(Order(starts, key, window), batch_size),
    }


def _stages(data: Data, taken: int) -> list[StageStats]:
    mixture = data.train.mixture
    names = [source.name for source in mixture.sources]
    weights = [{source.name: source.weight for source in mixture.sources}, *(stage.weights for stage in mixture.stages)]
    begins = [0, *(stage.from_sample for stage in mixture.stages)]
    edges = [min(edge, taken) for edge in (*begins, taken)]
    stages = []
    for number, name in enumerate(data.stage_names):
        first, end = edges[number : number + 2]
        drawn = (mixture.counts(end) - mixture.counts(first)).tolist()
        stages.append(
            StageStats(
                name=name,
                from_tokens=begins[number] * data.train.seq_len,
                to_tokens=max(end, begins[number]) * data.train.seq_len,
                weights=_shares({source: weights[number].get(source, 0.0) for source in names}),
                drawn=dict(zip(names, drawn, strict=True)),
            )
        )
    return stages


def _shares(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
