"""Which settings are tried: a grid, a random sample, or successive halving. Pure."""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import product

from foretrain.configs.keys import find_key
from foretrain.scaling.sweep.plan import Ask, Setting
from foretrain.scaling.sweep.space import Axis
from foretrain.scaling.trials.trial import Point, Trial

KEPT_OF = 3
"""A rung of successive halving keeps one setting in this many."""
MIN_KEPT = 3
"""A rung keeps at least this many settings: an optimum is the vertex of a parabola through three points."""
TRIES_PER_DRAW = 100


def points(axes: Sequence[Axis], ask: Ask) -> list[list[str]]:
    """KEY=VALUE of each axis, for every setting of the first rung. Raises ValueError for a range without steps."""
    if ask.num_trials is not None:
        return _drawn(axes, ask.num_trials, random.Random(ask.search_seed))
    for axis in axes:
        if not axis.values:
            raise ValueError(f"--over {axis.key}: a range needs a step, such as 0..0.2:0.05, or --search random")
    rows = product(*(axis.values for axis in axes))
    return [[f"{axis.key}={value}" for axis, value in zip(axes, row, strict=True)] for row in rows]


def check_distinct(settings: Sequence[Setting]) -> None:
    """Raise ValueError if two settings are equal but written differently."""
    for number, setting in enumerate(settings):
        if any(other.values == setting.values for other in settings[:number]):
            shown = ", ".join(f"{key}={value}" for key, value in setting.values.items())
            raise ValueError(f"--over names {shown} twice, in two notations: leave one out")


def shares(num_settings: int, ask: Ask) -> list[Fraction]:
    """The share of the tokens that each rung trains on; 1 for the last. There is one rung unless --search halving."""
    num_rungs = 1
    while ask.search == "halving" and math.ceil(num_settings / KEPT_OF) >= MIN_KEPT:
        num_settings = math.ceil(num_settings / KEPT_OF)
        num_rungs += 1
    return [Fraction(1, KEPT_OF ** (num_rungs - 1 - rung)) for rung in range(num_rungs)]


def kept(trials: Sequence[Trial], losses: Mapping[str, float | None]) -> set[Point]:
    """The points that the next rung keeps: for each shape the best third, by the mean over seeds.

    `losses` are by the key of the trial. A trial that diverged (None) or has no loss is worse than every number. Among
    equally good points the first is kept.
    """
    found: dict[Point, list[float]] = defaultdict(list)
    for trial in trials:
        loss = losses.get(trial.key)
        found[trial.point].append(math.inf if loss is None else loss)
    chosen: set[Point] = set()
    for shape in {shape for shape, _ in found}:
        means = {point: sum(losses) / len(losses) for point, losses in found.items() if point[0] == shape}
        chosen |= set(sorted(means, key=means.__getitem__)[: math.ceil(len(means) / KEPT_OF)])
    return chosen


def _drawn(axes: Sequence[Axis], num_trials: int, rng: random.Random) -> list[list[str]]:
    """This many different settings, or fewer if the axes have no more."""
    found: dict[tuple[str, ...], None] = {}
    for _ in range(num_trials * TRIES_PER_DRAW):
        if len(found) < num_trials:
            found[tuple(f"{axis.key}={axis.draw(rng, is_int=_is_int(axis.key))}" for axis in axes)] = None
    return [list(row) for row in found]


def _is_int(key: str) -> bool:
    found = find_key(key)
    return found is not None and found.kind in (int, int | None)
