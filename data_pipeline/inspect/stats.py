"""The numbers of a run's data: size of its sources, epochs of each, and quality of packing and shuffle.

Of the corpora, only the lengths of documents are read, and no tokens.
"""

import math
from dataclasses import dataclass

from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.report import InputReport
from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.inspect.document_lengths import Lengths
from foretrain.data_pipeline.inspect.order_quality import ShuffleQuality, shuffle_quality
from foretrain.data_pipeline.inspect.packing_stats import PackingStats, count_documents
from foretrain.data_pipeline.stream.data import Data, named_sources, open_data
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.samples import Source
from foretrain.progress import byte_progress


@dataclass(frozen=True)
class SplitStats:
    """The size of one split."""

    num_tokens: int
    """Tokens, with the EOT token of each document."""
    num_documents: int
    num_text_bytes: int
    """Bytes of text in UTF-8."""
    bytes_per_token: float
    num_shards: int
    num_members: int
    """Members of shards: what WebDataset calls samples."""
    size_bytes: int
    """Bytes of the files of the shards."""


@dataclass(frozen=True)
class SourceStats:
    """One source of the mixture."""

    name: str
    """Empty if the run does not name its only source."""
    path: str
    fingerprint: str
    train: SplitStats
    held_out: SplitStats
    packing: PackingStats
    """Packing of the train split."""
    lengths: Lengths
    """Lengths of the documents of the train split."""
    weight: float
    """Share of the samples that the source's weight asks for before the first stage."""
    max_epochs: float | None
    num_drawn: int
    """Samples that the run takes from the source."""
    drawn_share: float
    """Share of all samples of the run."""
    epochs: float
    """Epochs of the source that the run sees."""
    report: InputReport
    """What `prepare` left out, replaced and ignored."""
    shuffle: dict[str, ShuffleQuality]
    """By value of data.order: quality of that order for this source, in batches of its share of the global batch."""


@dataclass(frozen=True)
class StageStats:
    """A part of the run with constant weights."""

    name: str
    """Empty for the stage with the weights of the sources themselves."""
    from_tokens: int
    to_tokens: int
    """First token, and one past the last, both rounded up to full samples; equal if the run ends before the stage."""
    weights: dict[str, float]
    """Share of the samples that the weights ask for, by source."""
    drawn: dict[str, int]
    """Samples that are taken, by source."""


@dataclass(frozen=True)
class Budget:
    """How much data the run takes, and in which way."""

    seq_len: int
    packing: str
    order: str
    shuffle_window: int
    seed: int
    num_tokens: int
    """train.num_tokens, rounded up to full steps."""
    global_batch_size: int
    num_steps: int
    num_samples: int
    num_available: int | None
    """Samples until all sources have reached their max_epochs; None: no limit."""


@dataclass(frozen=True)
class Stats:
    """The numbers of a run's data."""

    budget: Budget
    sources: list[SourceStats]
    stages: list[StageStats]
    """At least one."""
    data_fingerprint: str
    mixture_fingerprint: str


def collect(config: Config, *, progress: bool = False) -> Stats:
    """Return the numbers of the data of a config. Raises ValueError and CorpusError as `open_data` does."""
    data = open_data(config.data, config.model.seq_len, progress=progress)
    budget = _budget(config, data)
    taken = min(budget.num_samples, budget.num_available or budget.num_samples)
    drawn = data.train.mixture.counts(taken).tolist()
    counts = _count_documents(data, progress)
    named = named_sources(config.data)
    weights = _shares(data.train.mixture.weights(0))
    sources = []
    for number, source in enumerate(data.train.sources):
        share = drawn[number] / taken if taken else 0.0
        lengths, packing = counts[number]
        sources.append(
            SourceStats(
                name=source.name,
                path=named[source.name].path,
                fingerprint=source.stream.fingerprint,
                train=_split(source.stream),
                held_out=_split(data.held_out[number].stream),
                packing=packing,
                lengths=lengths,
                weight=weights[source.name],
                max_epochs=named[source.name].max_epochs,
                num_drawn=drawn[number],
                drawn_share=share,
                epochs=drawn[number] / source.samples.num_samples,
                report=source.stream.manifest.report,
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


def _count_documents(data: Data, progress: bool) -> list[tuple[Lengths, PackingStats]]:
    """Return the lengths and the packing of the documents of each source."""
    total_bytes = sum(source.stream.num_tokens * source.stream.dtype.itemsize for source in data.train.sources)
    with byte_progress("reading the lengths of documents", total_bytes, enabled=progress) as advance:
        return [
            count_documents(source.stream, source.samples, data.train.seq_len, advance) for source in data.train.sources
        ]


def _shuffle(source: Source, batch_size: int, window: int) -> dict[str, ShuffleQuality]:
    starts, key = source.order.shard_starts, source.order.key
    return {
        "shuffle": shuffle_quality(Order(starts, key, None), batch_size),
        "local": shuffle_quality(Order(starts, key, window), batch_size),
    }


def _stages(data: Data, taken: int) -> list[StageStats]:
    mixture = data.train.mixture
    names = [source.name for source in mixture.sources]
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
                weights=_shares(mixture.weights(number)),
                drawn=dict(zip(names, drawn, strict=True)),
            )
        )
    return stages


def _shares(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
