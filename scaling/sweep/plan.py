"""The trials of a sweep, each a full config with a key: known before a process starts. Pure, except that it reads
YAML."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, get_args

from foretrain.configs import load as configs
from foretrain.configs.keys import changes_curve
from foretrain.configs.schema import Config
from foretrain.scaling.layouts import parse_layout
from foretrain.scaling.sweep.proxy import proxy
from foretrain.trainer.model.table import num_params
from foretrain.trainer.mup.parametrize import blueprint

Search = Literal["grid", "random", "halving"]
Value = float | int | str | bool | None
Point = tuple[tuple[int, int], tuple[tuple[str, Value], ...]]
"""A shape (width and depth), and the values of the axes."""
Resolve = Callable[[Sequence[str]], Config]
"""The user's config with further overrides."""

SET_BY = {
    "model.d_model": "--widths",
    "model.num_layers": "--depths",
    "train.seed": "--seeds",
    "data.seed": "--seeds",
}
"""Settings that cannot be axes, and the option that sets them."""


@dataclass(frozen=True)
class Ask:
    """What the user asked for."""

    over: tuple[str, ...]
    """KEY=SPEC of each axis."""
    widths: tuple[int, ...] = ()
    """Empty: the config's own."""
    depths: tuple[int, ...] = ()
    """Empty: the config's own."""
    seeds: tuple[int, ...] = (0,)
    search: Search = "grid"
    num_trials: int | None = None
    """Number of settings that a random search draws."""
    search_seed: int = 0
    """Seed of the random draw."""
    layout: str = "dp=1"

    def __post_init__(self) -> None:
        for name in ("over", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing: give at least one")
        if self.search not in get_args(Search):
            raise ValueError(f"--search {self.search}: use one of {', '.join(get_args(Search))}")
        if self.num_trials is not None and self.num_trials < 1:
            raise ValueError(f"--num-trials {self.num_trials}: use 1 or more")
        if self.num_trials is not None and self.search == "grid":
            raise ValueError("--num-trials is for --search random and halving: a grid takes every point")
        if self.num_trials is None and self.search == "random":
            raise ValueError("--search random needs --num-trials: how many settings to draw")


@dataclass(frozen=True)
class Corpus:
    """What a trial depends on in its data."""

    vocab_size: int
    fingerprints: dict[str, str]
    """Fingerprint of the tokens by the name of the source; the name of `data.path` is ""."""


@dataclass(frozen=True)
class Setting:
    """One combination of values of the axes."""

    config: Config
    """The user's config with these values."""
    values: dict[str, Value]
    """By the key of the axis, as the schema reads them."""


@dataclass(frozen=True)
class Trial:
    """One model to train once."""

    config: Config
    """The full config of a run, except for its folder."""
    values: dict[str, Value]
    fingerprints: dict[str, str]
    num_tokens: int
    """The budget of a final trial; a trial of an earlier rung has less."""

    @property
    def shape(self) -> tuple[int, int]:
        """Width and depth."""
        return self.config.model.d_model, self.config.model.num_layers

    @property
    def point(self) -> Point:
        """The shape and the values, which trials with other seeds share."""
        return self.shape, tuple(self.values.items())

    @property
    def seed(self) -> int:
        """Seed of the weights and of the order of samples."""
        return self.config.train.seed

    @property
    def is_rung(self) -> bool:
        """Whether the trial belongs to an earlier rung, and only helps to choose those that get the full budget."""
        return self.config.train.num_tokens < self.num_tokens

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that the curve depends on. The path of the tokens, the layout and the machine are
        not."""
        sources = {
            name: replace(source, path=self.fingerprints[name]) for name, source in self.config.data.sources.items()
        }
        data = replace(self.config.data, path=self.fingerprints.get("", ""), sources=sources)
        return configs.config_hash(_neutral(replace(self.config, data=data), Config()))

    @cached_property
    def num_params(self) -> int:
        """Parameters of the model."""
        return num_params(self.config.model)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.key[:16]

    def __str__(self) -> str:
        width, depth = self.shape
        values = "".join(f", {key}={shown(value)}" for key, value in self.values.items())
        budget = f", {self.config.train.num_tokens:,} tokens" if self.is_rung else ""
        return f"width {width}, depth {depth}, seed {self.seed}{values}{budget}"


def shown(value: Value) -> str:
    """A value in the notation that people read: small powers of two as 2^-7."""
    if not isinstance(value, float):
        return str(value)
    mantissa, exponent = math.frexp(value)
    return f"2^{exponent - 1}" if mantissa == 0.5 and exponent < 0 else f"{value:.4g}"


def setting_of(resolve: Resolve, overrides: Sequence[str]) -> Setting:
    """The setting for KEY=VALUE of each axis. Raises ValueError for values that the schema refuses."""
    config = resolve(overrides)
    return Setting(config, {key: _value(config, key) for key in (text.partition("=")[0] for text in overrides)})


def check_axes(keys: Sequence[str]) -> None:
    """Raise ValueError for keys that cannot be compared, or that another option sets."""
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise ValueError(f"--over names {key} twice: write all its values in one")
        if key in SET_BY:
            raise ValueError(f"--over {key}: use {SET_BY[key]}, which sets it for each trial")
        if key.startswith("parallel."):
            raise ValueError(f"--over {key}: every layout has the same curve; --layout sets that of all trials")
        if not changes_curve(key):
            raise ValueError(f"--over {key}: it does not change the curve, so there is nothing to compare")


def trials_of(
    settings: Sequence[Setting], ask: Ask, corpus_of: Callable[[Config], Corpus], share: Fraction = Fraction(1)
) -> list[Trial]:
    """The trials of all settings at every width and depth, with every seed, each on that share of its tokens.

    Raises ValueError for a trial that is impossible.
    """
    layout = parse_layout(ask.layout)
    trials = []
    for width in ask.widths or (None,):
        for depth in ask.depths or (None,):
            for setting in settings:
                for seed in ask.seeds:
                    config = proxy(setting.config, width, depth, seed, layout, share)
                    corpus = corpus_of(config)
                    config = replace(config, model=replace(config.model, vocab_size=corpus.vocab_size))
                    blueprint(config)  # refuses a base shape that does not fit the model
                    num_tokens = setting.config.train.num_tokens
                    trials.append(Trial(config, setting.values, corpus.fingerprints, num_tokens))
    return trials


def _value(config: Config, key: str) -> Value:
    found: Any = config
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return found


_KEPT = ("data.path", "train.eval_samples", "train.eval_standard_error")
"""They leave the curve too, but the first stands for the tokens, by their fingerprint, and the others decide over the
held-out loss."""


def _neutral(value: Any, default: Any, prefix: str = "") -> Any:
    """`value`, a config or a section of one, with each setting that leaves the result as it is at its default."""
    changes: dict[str, Any] = {}
    for field in fields(value):
        key, mine = prefix + field.name, getattr(value, field.name)
        if key in _KEPT:
            continue
        if not changes_curve(key):
            changes[field.name] = getattr(default, field.name)
        elif is_dataclass(mine):
            changes[field.name] = _neutral(mine, getattr(default, field.name), f"{key}.")
    return replace(value, **changes)
