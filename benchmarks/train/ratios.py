"""Ratios of times that were measured in the same rounds, with intervals. Pure arithmetic."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoint.pairs import CONFIDENCE, Ratio
from benchmarks.checkpoint.report import Bar, bar_records

Floats = npt.NDArray[np.float64]
NUM_RESAMPLES = 2000
MIN_ROUNDS = 6
"""With fewer rounds, no resampling has an interval of this confidence: it is then from 0 to infinity."""


def ratio(times: Sequence[float], others: Sequence[float], sessions: Sequence[int] | None = None) -> Ratio | None:
    """The median, over rounds, of the time of one contestant as a multiple of that of another one in the same round.

    Whatever slows the machine for a round slows both, and a round in which it hit one of them hardly moves the median.
    `sessions` are those of the rounds: within one, each contestant is one process, and its places in memory may make
    all of its steps faster or slower (Mytkowicz et al., ASPLOS 2009). The interval is the percentile bootstrap
    over sessions and, in each of them, over its rounds (Davison and Hinkley 1997, section 3.8). Without a round, the
    ratio is None.
    """
    if not times:
        return None
    ratios = np.array(times, dtype=float) / np.array(others, dtype=float)
    value = float(np.median(ratios))
    if len(ratios) < MIN_ROUNDS:
        return Ratio(value, 0.0, math.inf, len(ratios))
    numbers = np.zeros(len(ratios), dtype=int) if sessions is None else np.array(sessions)
    groups = [ratios[numbers == number] for number in np.unique(numbers)]
    rng = np.random.default_rng(0)
    medians = [np.median(np.concatenate(_drawn(groups, rng))) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(value, float(low), float(high), len(ratios))


def _drawn(groups: Sequence[Floats], rng: np.random.Generator) -> list[Floats]:
    """As many of the groups, drawn with replacement, each with as many values, drawn from its own likewise."""
    return [rng.choice(groups[number], len(groups[number])) for number in rng.integers(len(groups), size=len(groups))]


def records_of(bars: Sequence[Bar]) -> list[dict[str, Any]]:
    """The bars as plain values for JSON, which has no infinity: None in its place."""
    return [{**each, "high": None if each["high"] == math.inf else each["high"]} for each in bar_records(bars)]
