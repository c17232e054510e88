"""The trials of a sweep: known before a process starts. Pure, except that it reads YAML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from foretrain.configs.keys import changes_curve
from foretrain.configs.schema import Config
from foretrain.scaling.layouts import parse_layout
from foretrain.scaling.trials.trial import Corpus, Trial, Value, trial_of

Search = Literal["grid", "random", "halving"]
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
class Setting:
    """One combination of values of the axes."""

    config: Config
    """The user's config with these values."""
    values: dict[str, Value]
    """By the key of the axis, as the schema reads them."""


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
    return [
        trial_of(
            setting.config,
            corpus_of,
            layout,
            width=width,
            depth=depth,
            seed=seed,
            share=share,
            values=setting.values,
        )
        for width in ask.widths or (None,)
        for depth in ask.depths or (None,)
        for setting in settings
        for seed in ask.seeds
    ]


def _value(config: Config, key: str) -> Value:
    found: Any = config
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return found
