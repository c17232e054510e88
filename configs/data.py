"""The `data` section of a config: where tokens come from, and how they become samples."""

import re
from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import PASSWORD_ADVICE, require, require_not_negative, require_positive, require_seeds
from foretrain.configs.fields import setting
from foretrain.printable import HAS_PASSWORD


def _require_no_password(path: str) -> None:
    is_command = path.startswith("pipe:")  # whose text says nothing about what is a password in it
    require(is_command or not HAS_PASSWORD.search(path), f"path {PASSWORD_ADVICE}")


def _require_sha256(value: str | None) -> None:
    require(
        value is None or re.fullmatch(r"[0-9a-f]{64}", value) is not None,
        f"sha256 = {value} must be the 64 hexadecimal digits that `sha256sum manifest.json` prints",
    )


@dataclass
class SourceConfig:
    """One corpus of a mixture."""

    path: str = setting("", changes_curve=False)  # the tokens may move; their fingerprint may not change
    """A folder that `foretrain prepare` wrote, or its address on a server, as in `data.path`."""
    weight: float = 1.0
    """Share of the samples, relative to the weights of the other sources."""
    max_epochs: float | None = None
    """Upper limit on how often the source is repeated; None: as often as its weight requires."""
    sha256: str | None = setting(None, changes_curve=False, since="0.2.0")
    """SHA-256 of the source's manifest.json, as in `data.sha256`."""

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)
        _require_no_password(self.path)
        require(bool(self.path), "every source needs a path: a folder that `foretrain prepare` wrote")
        require_not_negative(self, "weight")
        require_positive(max_epochs=self.max_epochs)


@dataclass
class StageConfig:
    """Other weights of the sources after a number of tokens, as annealing needs."""

    from_tokens: int = 0
    """Tokens of training after which these weights apply, rounded up to complete samples; more than 0."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each source by its name; a source that is not listed gives no samples."""

    def __post_init__(self) -> None:
        require_positive(from_tokens=self.from_tokens)
        require(
            any(weight > 0 for weight in self.weights.values()) and min(self.weights.values()) >= 0,
            f"weights = {self.weights}: give at least one source a weight greater than 0, and none a negative weight",
        )


@dataclass
class CacheConfig:
    """The cache of shards that are fetched from a server."""

    dir: str | None = None
    """Folder of the cache, shared by all ranks of a node; None: `foretrain` in the user's cache folder."""
    max_gb: float = 100.0
    """Size limit of the cache, GB; the least recently used shards are evicted."""
    prefetch_gb: float = 4.0
    """Size of the shards that are fetched before they are needed, GB."""
    timeout_s: float = 30.0
    """Seconds without data from the server after which a request is repeated."""
    retries: int = 8
    """Repetitions of a failed request, with growing pauses, before the run ends."""
    check_hits: bool = setting(False, since="0.2.0")
    """Compare the checksum of a shard also when it is found in the cache, each time that it is opened, and not its size
    alone."""

    def __post_init__(self) -> None:
        require_positive(max_gb=self.max_gb, timeout_s=self.timeout_s)
        require_not_negative(self, "prefetch_gb", "retries")


@dataclass
class DataConfig:
    """Where the tokens come from, and how they become samples."""

    path: str = setting("data", changes_curve=False)  # as in SourceConfig
    """A folder that `foretrain prepare` wrote, or its address on a server: http(s)://HOST/FOLDER, s3://, gs://, hf://,
    or `pipe:COMMAND {}`, a command that writes the file {} of the folder to its standard output."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Several corpora instead of `path`, under names that you choose. All must have the same tokenizer."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Stages of the mixture, under names that you choose: each replaces the weights of the sources after a number of
    tokens."""
    mixture_block: int = 4096
    """Samples in one block of the mixture; in every block, the share of each source is exact to one sample."""
    order: Literal["shuffle", "local"] = "shuffle"
    """shuffle: an epoch is a permutation of all samples. local: shards are read in a shuffled order, and samples are
    shuffled with `shuffle_window` neighbours. Use local for corpora that are fetched and do not fit on this machine."""
    shuffle_window: int = 65536
    """Samples that `local` shuffles together. More give a better shuffle, and use more shards at the same time."""
    packing: Literal["windows", "documents", "best_fit"] = "windows"
    """windows: the stream of tokens is divided into samples, and attention sees the complete sample. documents: the
    same samples, but attention and positions stay inside a document. best_fit: complete documents are packed into
    samples with as little padding as possible; only documents longer than a sample are divided."""
    seed: int = 0
    """Seed of the order of samples; `train.seed` is that of the model."""
    prefetch_batches: int = setting(2, changes_curve=False)
    """Batches that a thread reads before the optimizer needs them; 0: the training loop reads them itself."""
    max_bad_samples: int = setting(0, changes_curve=False)
    """Unreadable samples that a run may replace by others; the next one ends the run."""
    cache: CacheConfig = setting(default_factory=CacheConfig, changes_curve=False)
    """The cache of shards that are fetched from a server."""
    sha256: str | None = setting(None, changes_curve=False, since="0.2.0")
    """SHA-256 of the manifest.json at `path`, which `sha256sum` prints, and which has the checksums of all other files:
    a corpus with another one is refused. None: any corpus there."""

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)
        _require_no_password(self.path)
        require(
            self.sha256 is None or not self.sources,
            "sha256 is that of `path`, and `sources` replace it: set sources.NAME.sha256",
        )
        require_positive(mixture_block=self.mixture_block, shuffle_window=self.shuffle_window)
        require_not_negative(self, "prefetch_batches", "max_bad_samples")
        require_seeds(self, "seed")
        require(
            bool(self.sources) or not self.stages,
            "stages change the weights of sources, and data.sources is empty: add the sources to data.sources",
        )
        starts = [stage.from_tokens for stage in self.stages.values()]
        require(
            len(starts) == len(set(starts)), f"stages start at {starts} tokens: give every stage another from_tokens"
        )
        for name, stage in self.stages.items():
            unknown = sorted(stage.weights.keys() - self.sources.keys())
            require(
                not unknown,
                f"stages.{name} has a weight for {', '.join(unknown)}, but the sources are {', '.join(self.sources)}",
            )
