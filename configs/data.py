"""The knobs of where tokens come from, and how they become samples: `data` in a config."""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import require, require_positive
from foretrain.configs.fields import setting


@dataclass
class SourceConfig:
    """One corpus of a mixture."""

    path: str = setting("", changes_curve=False)  # the tokens may move; their fingerprint may not change
    """A folder that `foretrain prepare` wrote, or where one can be fetched from, as in `data.path`."""
    weight: float = 1.0
    """Share of the samples, relative to the other sources' weights."""
    max_epochs: float | None = None
    """The source gives no more samples than this many times its own; None: as many as its weight asks for."""

    def __post_init__(self) -> None:
        require(bool(self.path), "every source needs a path: a folder that `foretrain prepare` wrote")
        require(self.weight >= 0, f"weight = {self.weight} must not be negative")
        require_positive(max_epochs=self.max_epochs)


@dataclass
class StageConfig:
    """From a number of tokens on, other weights: for annealing."""

    from_tokens: int = 0
    """Tokens of training after which these weights hold, rounded up to whole samples; more than 0."""
    weights: dict[str, float] = field(default_factory=dict)
    """By the name of the source; a source that is not named gives nothing."""

    def __post_init__(self) -> None:
        require_positive(from_tokens=self.from_tokens)
        require(
            any(weight > 0 for weight in self.weights.values()) and min(self.weights.values()) >= 0,
            f"weights = {self.weights}: a stage needs a source of positive weight, and none of a negative one",
        )


@dataclass
class CacheConfig:
    """How shards are fetched that are not on this machine's disks."""

    dir: str | None = None
    """Folder of the shards that were fetched, one for all ranks of a node; None: `foretrain` in the user's cache."""
    max_gb: float = 100.0
    """Room that they may take, GB: those not read for longest give way."""
    prefetch_gb: float = 4.0
    """Shards fetched ahead of need, GB."""
    timeout_s: float = 30.0
    """A server that sends nothing for this long is asked again."""
    retries: int = 8
    """Tries after the first, ever longer apart, before the run ends."""

    def __post_init__(self) -> None:
        require_positive(max_gb=self.max_gb, timeout_s=self.timeout_s)
        for name in ("prefetch_gb", "retries"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")


@dataclass
class DataConfig:
    """Where the tokens come from, and how they become samples."""

    path: str = setting("data", changes_curve=False)  # as in SourceConfig
    """A folder that `foretrain prepare` wrote, or where it can be fetched from: http(s)://HOST/FOLDER, s3://, gs://,
    hf://, or `pipe:COMMAND {}`, a command that writes the file {} of the folder to its output."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Several corpora, by names of your own, in the place of `path`: all of one tokenizer."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Weights that take the place of the sources' own, each from a number of tokens on, by names of your own."""
    mixture_block: int = 4096
    """Samples among which the sources' shares are exact, to the nearest whole sample."""
    order: Literal["shuffle", "local"] = "shuffle"
    """shuffle: an epoch is a permutation of all samples. local: shards in a shuffled order, and samples shuffled among
    `shuffle_window` neighbours: for corpora that are fetched and do not fit on this machine."""
    shuffle_window: int = 65536
    """Samples that `local` shuffles together: the more, the better the shuffle, and the more shards are in use."""
    packing: Literal["windows", "documents", "best_fit"] = "windows"
    """windows: samples are cut from the stream of tokens, and attention sees all of a sample. documents: cut in the
    same way, but attention and positions stay inside a document. best_fit: whole documents, packed into samples with
    as little padding as can be; only those longer than a sample are cut."""
    seed: int = 0
    """Seed of the order of samples, apart from the model's seed."""
    prefetch_batches: int = setting(2, changes_curve=False)
    """Batches read ahead of the optimizer, in a thread; 0 reads in the training loop."""
    max_bad_samples: int = setting(0, changes_curve=False)
    """Unreadable samples of a run that are replaced by others before one ends it; 0: the first one does."""
    cache: CacheConfig = setting(default_factory=CacheConfig, changes_curve=False)
    """Shards that are not on this machine's disks."""

    def __post_init__(self) -> None:
        require_positive(mixture_block=self.mixture_block, shuffle_window=self.shuffle_window)
        for name in ("prefetch_batches", "max_bad_samples"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")
        require(
            bool(self.sources) or not self.stages,
            "stages change the weights of sources, and there are none: name them in data.sources",
        )
        starts = [stage.from_tokens for stage in self.stages.values()]
        require(len(starts) == len(set(starts)), f"stages begin at {starts} tokens: no two may begin at once")
        for name, stage in self.stages.items():
            unknown = sorted(stage.weights.keys() - self.sources.keys())
            require(
                not unknown,
                f"stages.{name} weighs {', '.join(unknown)}, but the sources are {', '.join(self.sources)}",
            )
