"""All the data of a run: the stream of training samples, and the held-out samples.

    data = open_data("data/mine", seq_len=1024)
    for batch in data.batches(global_batch_size=256, dp_rank=rank, dp_size=num_ranks):
        train(batch.tokens_BL, batch.targets_BL)

Shape letters: B samples of one rank's batch, L positions of a sample.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foretrain.configs.data import DataConfig, SourceConfig
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import split_of_set
from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batches import Batches, Prefetcher
from foretrain.data_pipeline.stream.left_out import NOTHING, LeftOut
from foretrain.data_pipeline.stream.mixture import Mixture, SourceShare, Stage
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.packing import open_samples
from foretrain.data_pipeline.stream.samples import SampleStream, Source

OpenSplit = Callable[..., TokenStream]
"""open_corpus(path, split, sha256=None), with its other arguments set."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out samples of one source."""

    name: str
    stream: TokenStream
    """The val split."""
    weight: float
    """The source's share of the samples of an evaluation, relative to the weights of the other sources."""
    sets: dict[str, TokenStream] = field(default_factory=dict)
    """The named sets of held-out files, which are parts of the val split."""


@dataclass(frozen=True)
class UnigramLoss:
    """The loss of a model that knows only how often each token occurs in the train split of each source."""

    nats: float
    is_of_held_out: bool
    """Whether it is the loss on held-out tokens. Else it is that on the tokens of the train splits, since a corpus of a
    version before 0.2.0 has no other: held-out text with many rare tokens can have a much higher one."""


@dataclass(frozen=True)
class Data:
    """The data of a run. It can be pickled; a copy opens its files again."""

    train: SampleStream
    held_out: list[HeldOut]
    config: DataConfig
    fingerprints: dict[str, str]
    """By the name of the source. A fingerprint changes with any token of the source's train split, with the order of
    the tokens, and with the tokenizer."""
    mixture_fingerprint: str
    """It changes with anything else that decides which tokens make up a global sample."""
    stage_names: list[str]
    """Names of the mixture's stages. The first is "": the stage with the weights of the sources themselves."""

    def batches(
        self,
        global_batch_size: int,
        *,
        dp_rank: int = 0,
        dp_size: int = 1,
        samples_consumed: int = 0,
        num_batches: int | None = None,
    ) -> Prefetcher:
        """Return an iterator over this rank's batches, read ahead by a thread.

        `global_batch_size` samples are divided among the `dp_size` ranks; `dp_rank` counts from 0. Each batch has
        int64 arrays of shape (B, L), where B = global_batch_size / dp_size and L = seq_len: `tokens_BL`, `targets_BL`
        (-100 carries no loss), and `positions_BL`, or None if attention sees the full sample.

        To resume, save `samples_consumed` of the iterator and pass it here again, with any number of ranks: together
        they read the same samples in the same order. `num_batches`: batches until the iterator ends; None: until
        `max_epochs` of the sources ends, or without end. Raises ValueError if `dp_size` does not divide
        `global_batch_size`.
        """
        prefetch_samples = self.samples_in(self.config.cache.prefetch_gb)
        batches = Batches(self.train, global_batch_size, dp_rank, dp_size, prefetch_samples)
        available = self.train.mixture.num_samples
        if num_batches is None and available is not None:
            num_batches = max(0, available - samples_consumed) // global_batch_size
        return Prefetcher(batches, samples_consumed, num_batches, self.config.prefetch_batches)

    @property
    def fingerprint(self) -> str:
        """One fingerprint of all sources."""
        only = self.fingerprints.get("")
        return only if only is not None else _hash(self.fingerprints)

    @property
    def held_out_fingerprint(self) -> str:
        """One fingerprint of the held-out splits of all sources."""
        fingerprints = {source.name: source.stream.fingerprint for source in self.held_out}
        only = fingerprints.get("")
        return only if only is not None else _hash(fingerprints)

    @property
    def any_stream(self) -> TokenStream:
        """The train split of one source. All sources have the same vocabulary, EOT and tokenizer."""
        return self.train.sources[0].stream

    @property
    def unigram_loss(self) -> UnigramLoss:
        """The loss with which to compare the held-out loss: it weighs the sources as an evaluation does."""
        of_held_out = [source.stream.manifest.held_out_unigram_nats for source in self.held_out if source.weight]
        known = [nats for nats in of_held_out if nats is not None]
        if len(known) == len(of_held_out):
            return UnigramLoss(self._held_out_mean(known), True)
        of_train = [source.stream.manifest.unigram_entropy_nats for source in self.held_out if source.weight]
        return UnigramLoss(self._held_out_mean(of_train), False)

    @property
    def held_out_bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text for each held-out token, end-of-text tokens included; None if they are not known.

        It weighs the sources as an evaluation does.
        """
        splits = [source.stream.manifest.splits["val"] for source in self.held_out if source.weight]
        if not all(split.num_bytes and split.num_tokens for split in splits):
            return None
        return self._held_out_mean([split.num_bytes / split.num_tokens for split in splits])

    def _held_out_mean(self, values: Sequence[float]) -> float:
        """The mean of a value of each held-out source, by its weight."""
        weights = [source.weight for source in self.held_out if source.weight]
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def samples_in(self, gigabytes: float) -> int:
        """Return how many samples of stored tokens have that size."""
        return int(gigabytes * 1e9 / (self.train.seq_len * self.any_stream.dtype.itemsize))

    def state(self, samples_consumed: int, left_out: LeftOut = NOTHING) -> dict[str, Any]:
        """Return all that the stream needs to resume, and what it must then find unchanged. Equal on every rank."""
        return {
            "samples_consumed": samples_consumed,
            "left_out": left_out.ranges,
            "seed": self.train.seed,
            "data_fingerprint": self.fingerprint,
            "mixture_fingerprint": self.mixture_fingerprint,
            "stage": self.stage_names[self.train.mixture.stage(left_out.number(samples_consumed))],
        }

    def check_budget(self, num_samples: int, left_out: LeftOut = NOTHING) -> None:
        """Raise CorpusError if `max_epochs` of the sources leaves fewer than `num_samples` samples to train on."""
        if self.train.mixture.num_samples is None:
            return
        available = self.train.mixture.num_samples - left_out.count
        if num_samples > available:
            raise CorpusError(
                f"the run takes {num_samples:,} samples, and the sources' max_epochs leave {available:,}: raise "
                f"max_epochs, or lower train.num_tokens to {available * self.train.seq_len:,}"
            )


def open_data(
    source: Config | DataConfig | str | Path,
    seq_len: int | None = None,
    *,
    progress: bool = False,
    check: bool = True,
    **settings: Any,
) -> Data:
    """Open the training samples and the held-out samples of a run.

    `source` is a `Config`, its `data` section, or the path of a corpus: a folder that `foretrain prepare` wrote, or its
    URL. `seq_len` is the number of tokens of a sample; it may be left out if `source` is a `Config`. `settings` are
    fields of the `data` section that win over `source`: `open_data("data/mine", 1024, packing="best_fit", seed=1)`.
    `progress` shows on stderr how far long work is. Without `check`, the files of a corpus in a folder are not checked
    before they are read: of many processes on a machine, one needs to.

    Raises ValueError if a setting is wrong, and its subclass CorpusError if a source cannot be opened or mixed with the
    others, or holds no sample.
    """
    if isinstance(source, Config):
        config, seq_len = source.data, seq_len or source.model.seq_len
    else:
        config = source if isinstance(source, DataConfig) else DataConfig(path=str(source))
    if seq_len is None:
        raise ValueError("open_data needs seq_len, the number of tokens of a sample: pass it, or pass a Config")
    config = _with_settings(config, settings)
    named = named_sources(config)
    open_split = partial(open_corpus, cache=config.cache, progress=progress, check=check)
    streams = {name: _open(name, source, "train", open_split) for name, source in named.items()}
    held_out = [_open_held_out(name, source, open_split) for name, source in named.items()]
    _check_one_tokenizer(streams)
    sources = [_source(name, stream, config, seq_len, progress) for name, stream in streams.items()]
    shares = [
        SourceShare(source.name, source.samples.num_samples, named[source.name].weight, named[source.name].max_epochs)
        for source in sources
    ]
    stage_configs = sorted(config.stages.items(), key=lambda item: item[1].from_tokens)
    stages = [Stage(-(-stage.from_tokens // seq_len), stage.weights) for _, stage in stage_configs]
    mixture = Mixture(shares, stages, config.seed, config.mixture_block)
    decisive = {
        "sources": [[share.name, share.num_samples, share.weight, share.max_epochs] for share in shares],
        "stages": [[stage.from_sample, sorted(stage.weights.items())] for stage in stages],
        "block": config.mixture_block if len(shares) > 1 else None,
        "order": [config.order, config.shuffle_window if config.order == "local" else None],
        "packing": config.packing,
        "seq_len": seq_len,
    }
    train = SampleStream(sources, mixture, seq_len, config.seed, replaces_unreadable=config.max_bad_samples > 0)
    fingerprints = {name: stream.fingerprint for name, stream in streams.items()}
    return Data(train, held_out, config, fingerprints, _hash(decisive), ["", *(name for name, _ in stage_configs)])


def named_sources(config: DataConfig) -> dict[str, SourceConfig]:
    """Return the sources by name, sorted by name. If the config has only `path`, its name is ""."""
    return dict(sorted(config.sources.items())) or {"": SourceConfig(config.path, sha256=config.sha256)}


def _with_settings(config: DataConfig, settings: dict[str, Any]) -> DataConfig:
    """Return the config with some fields replaced, checked as those of a file are. Raises ValueError."""
    if not settings:
        return config
    try:
        changed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config), settings))
    except (ValueError, OmegaConfBaseException) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"open_data cannot set {', '.join(settings)} of `data`: {first_line}") from error
    assert isinstance(changed, DataConfig)
    return changed


def _open(name: str, source: SourceConfig, split: str, open_split: OpenSplit) -> TokenStream:
    try:
        return open_split(source.path, split, sha256=source.sha256)
    except CorpusError as error:
        if not name:
            raise
        raise error.named(f"data.sources.{name}: ") from error


def _open_held_out(name: str, source: SourceConfig, open_split: OpenSplit) -> HeldOut:
    stream = _open(name, source, "val", open_split)
    sets = {each: _open(name, source, split_of_set(each), open_split) for each in stream.manifest.val_sets}
    for split in (stream, *sets.values()):
        if split.num_tokens < 2:
            raise CorpusError(
                f"the {split.split} split of {source.path} has {split.num_tokens} token, and the first is never "
                "predicted: prepare it with a larger --val-fraction, or longer files for --val"
            )
    return HeldOut(name, stream, source.weight, sets)


def _source(name: str, stream: TokenStream, config: DataConfig, seq_len: int, progress: bool) -> Source:
    cache_dir = Path(config.cache.dir) if config.cache.dir else None
    samples = open_samples(stream, seq_len, config.packing, cache_dir, progress=progress)
    key = f"order/{config.seed}/{name}" if name else f"order/{config.seed}"
    window = config.shuffle_window if config.order == "local" else None
    return Source(name, stream, samples, Order(samples.shard_starts, key, window))


def _check_one_tokenizer(streams: dict[str, TokenStream]) -> None:
    """Raise CorpusError unless a token means the same in every source."""
    (first, one), *others = streams.items()
    for name, stream in others:
        if (stream.tokenizer_sha256, stream.eot_id) != (one.tokenizer_sha256, one.eot_id):
            raise CorpusError(
                f"data.sources.{name} was prepared with another tokenizer than data.sources.{first}: prepare it again "
                f"with --tokenizer {Path(str(one.folder)) / 'tokenizer.json'}"
            )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
