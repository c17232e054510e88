"""Ratios of times that were measured in the same rounds, with intervals. Pure arithmetic."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.checkpoint.pairs import CONFIDENCE, Ratio
from benchmarks.checkpoint.report import Bar, bar_records

NUM_RESAMPLES = 2000
MIN_ROUNDS = 6
"""With fewer rounds, no resampling has an interval of this confidence: it is then from 0 to infinity."""


def ratio(times: Sequence[float], others: Sequence[float]) -> Ratio | None:
    """The median, over rounds, of the time of one contestant as a multiple of that of another one in the same round.

    Whatever slows the machine for a round slows both, and a round in which it hit one of them hardly moves the median.
    The interval is the percentile bootstrap over rounds (Efron and Tibshirani 1993, section 13.3). Without a round, the
    ratio is None.
    """
    if not times:
        return None
    ratios = np.array(times, dtype=float) / np.array(others, dtype=float)
    value = float(np.median(ratios))
    if len(ratios) < MIN_ROUNDS:
        return Ratio(value, 0.0, math.inf, len(ratios))
    draws = np.random.default_rng(0).integers(len(ratios), size=(NUM_RESAMPLES, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(value, float(low), float(high), len(ratios))


def records_of(bars: Sequence[Bar]) -> list[dict[str, Any]]:
    """The bars as plain values for JSON, which has no infinity: None in its place."""
    return [{**each, "high": None if each["high"] == math.inf else each["high"]} for each in bar_records(bars)]
