"""Open all the data of a run, as its config names it: the stream of training samples, and what is held out."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from foretrain.configs.data import CacheConfig, DataConfig, SourceConfig
from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.mixture import Mixture, SourceShare, Stage
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.packing import samples_of
from foretrain.data_pipeline.stream.samples import SampleStream, Source


@dataclass(frozen=True)
class HeldOut:
    """The held-out split of one source."""

    name: str
    stream: TokenStream
    weight: float
    """The source's share of the samples of an evaluation, relative to the others'."""


@dataclass(frozen=True)
class Data:
    """The data of a run. It can be pickled: the copy opens its files again."""

    train: SampleStream
    held_out: list[HeldOut]
    fingerprints: dict[str, str]
    """By the source's name: changes with any token of its train split, their order, and the tokenizer."""
    mixture_fingerprint: str
    """Changes with anything else that decides which tokens a global sample is made of."""
    stage_names: list[str]
    """Of the mixture's stages, the first one being that of the sources' own weights: ""."""

    @property
    def fingerprint(self) -> str:
        """One fingerprint of all sources."""
        only = self.fingerprints.get("")
        return only if only is not None else _hash(self.fingerprints)

    @property
    def any_stream(self) -> TokenStream:
        """The train split of one source: vocabulary, EOT and tokenizer are the same in all."""
        return self.train.sources[0].stream

    @property
    def unigram_entropy_nats(self) -> float:
        """Loss of a model that knows how often each token occurs in each source, over the held-out samples' mixture."""
        total = sum(source.weight for source in self.held_out)
        return sum(source.weight * source.stream.manifest.unigram_entropy_nats for source in self.held_out) / total

    def samples_in(self, gigabytes: float) -> int:
        """How many samples of tokens have that size."""
        return int(gigabytes * 1e9 / (self.train.seq_len * self.any_stream.dtype.itemsize))

    def state(self, samples_consumed: int) -> dict[str, object]:
        """All that the stream needs to go on, the same on every rank."""
        return {
            "samples_consumed": samples_consumed,
            "seed": self.train.seed,
            "data_fingerprint": self.fingerprint,
            "mixture_fingerprint": self.mixture_fingerprint,
            "stage": self.stage_names[self.train.mixture.stage(samples_consumed)],
        }

    def check_budget(self, num_samples: int) -> None:
        """Raise CorpusError unless there are that many samples; sources without a cap are endless."""
        available = self.train.mixture.num_samples
        if available is not None and num_samples > available:
            raise CorpusError(
                f"the run takes {num_samples:,} samples, and the sources' max_epochs leave {available:,}: raise "
                f"max_epochs, or lower train.num_tokens to {available * self.train.seq_len:,}"
            )


def open_data(config: DataConfig, seq_len: int, *, progress: bool = False) -> Data:
    """Open every source of `config` for samples of `seq_len` tokens.

    Raises CorpusError for sources that cannot be opened, cannot be mixed, or hold no sample.
    """
    named = dict(sorted(config.sources.items())) or {"": SourceConfig(config.path)}
    streams = {name: _open(name, source.path, "train", config.cache) for name, source in named.items()}
    held_out = [
        HeldOut(name, _held_out(name, source.path, config.cache), source.weight) for name, source in named.items()
    ]
    _check_one_tokenizer(streams)
    sources = [_source(name, stream, config, seq_len, progress) for name, stream in streams.items()]
    shares = [
        SourceShare(source.name, source.samples.num_samples, named[source.name].weight, named[source.name].max_epochs)
        for source in sources
    ]
    stage_configs = sorted(config.stages.items(), key=lambda item: item[1].from_tokens)
    stages = [Stage(-(-stage.from_tokens // seq_len), stage.weights) for _, stage in stage_configs]
    mixture = Mixture(shares, stages, config.seed, config.mixture_block)
    decides = {
        "sources": [[share.name, share.num_samples, share.weight, share.max_epochs] for share in shares],
        "stages": [[stage.from_sample, sorted(stage.weights.items())] for stage in stages],
        "block": config.mixture_block if len(shares) > 1 else None,
        "order": [config.order, config.shuffle_window if config.order == "local" else None],
        "packing": config.packing,
        "seq_len": seq_len,
    }
    train = SampleStream(sources, mixture, seq_len, config.seed, replaces_unreadable=config.max_bad_samples > 0)
    fingerprints = {name: stream.fingerprint for name, stream in streams.items()}
    return Data(train, held_out, fingerprints, _hash(decides), ["", *(name for name, _ in stage_configs)])


def _open(name: str, path: str, split: str, cache: CacheConfig) -> TokenStream:
    try:
        return open_corpus(path, split, cache)
    except CorpusError as error:
        raise CorpusError(f"data.sources.{name}: {error}" if name else str(error)) from error


def _held_out(name: str, path: str, cache: CacheConfig) -> TokenStream:
    stream = _open(name, path, "val", cache)
    if stream.num_tokens < 2:
        raise CorpusError(
            f"the val split of {path} has {stream.num_tokens} token, and the first is never predicted: prepare it with "
            "a larger --val-fraction"
        )
    return stream


def _source(name: str, stream: TokenStream, config: DataConfig, seq_len: int, progress: bool) -> Source:
    cache_dir = Path(config.cache.dir) if config.cache.dir else None
    samples = samples_of(stream, seq_len, config.packing, cache_dir, progress=progress)
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
