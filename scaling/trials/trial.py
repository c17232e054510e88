"""One trial: a full config to train once, known by a key of everything that its curve depends on. Pure, except that it
reads YAML."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.keys import changes_curve
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.trials.proxy import proxy
from foretrain.trainer.model.table import num_params
from foretrain.trainer.mup.parametrize import blueprint

Value = float | int | str | bool | None
Point = tuple[tuple[int, int], tuple[tuple[str, Value], ...]]
"""A shape (width and depth), and the values of the axes."""


@dataclass(frozen=True)
class Corpus:
    """What a trial depends on in its data."""

    vocab_size: int
    fingerprints: dict[str, str]
    """Fingerprint of the tokens by the name of the source; the name of `data.path` is ""."""
    num_epochs: float = 0.0
    """How often the trial reads the source that it repeats most."""


@dataclass(frozen=True)
class Trial:
    """One model to train once."""

    config: Config
    """The full config of a run, except for its folder."""
    values: dict[str, Value]
    fingerprints: dict[str, str]
    num_tokens: int
    """The budget of a final trial; a trial of an earlier rung has less."""
    label: str = ""
    """Name of the folder; "": the beginning of the key."""

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
        return self.label or self.key[:16]

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


def trial_of(
    config: Config,
    corpus_of: Callable[[Config], Corpus],
    layout: Layout,
    *,
    width: int | None,
    depth: int | None,
    seed: int,
    share: Fraction = Fraction(1),
    values: Mapping[str, Value] | None = None,
) -> Trial:
    """The trial of `config` at a width and depth (None: its own), with a seed, on a share of its tokens.

    `values` are those of the settings that are compared. Raises ValueError if the trial is impossible.
    """
    small = proxy(config, width, depth, seed, layout, share)
    corpus = corpus_of(small)
    small = replace(small, model=replace(small.model, vocab_size=corpus.vocab_size))
    blueprint(small)  # refuses a base shape that does not fit the model
    return Trial(small, dict(values or {}), corpus.fingerprints, config.train.num_tokens)


_KEPT = (
    "data.path",
    "train.eval_samples",
    "train.eval_standard_error",
    "train.eval_tasks",
    "train.eval_problems",
)
"""They leave the curve too, but the first stands for the tokens, by their fingerprint, and the others decide over what
evaluations find."""


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
