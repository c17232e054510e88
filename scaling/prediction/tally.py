"""The tally of scored predictions: how many were inside their intervals, and how large the errors are. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
from foretrain.trainer.metrics import VAL_LOSS

RANGES = (1, 3, 10, 30, 100, math.inf)
"""Where a tally divides predictions by the compute of their target over that of the largest run of their fit."""


@dataclass(frozen=True)
class Scored:
    """One prediction and its score."""

    name: str
    ratio: float
    error: float
    width: float
    """Width of the interval at 90 %, over the prediction."""
    interval: tuple[float, float]
    """Its ends over the measured loss, minus 1."""
    inside: dict[str, bool]
    baseline_errors: dict[str, float]
    metric: str = VAL_LOSS
    """What was predicted."""


@dataclass(frozen=True)
class Row:
    """The predictions in a range of extrapolation."""

    low: float
    high: float
    count: int
    inside: dict[str, int]
    """How many losses were in their interval, by level."""
    median_error: float
    """The median absolute error."""
    worst_error: float
    mean_width: float
    baselines: dict[str, float]
    """The median absolute error of simpler rules."""


def by_metric(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The predictions of each metric, whose errors say nothing of each other."""
    return {metric: [each for each in scored if each.metric == metric] for metric in sorted({x.metric for x in scored})}


def tally(scored: Sequence[Scored]) -> list[Row]:
    """A row for each range of extrapolation that has predictions, and one for all of them."""
    rows = [
        _row(low, high, part)
        for low, high in pairwise(RANGES)
        if (part := [each for each in scored if low <= each.ratio < high])
    ]
    return [*rows, _row(RANGES[0], math.inf, scored)] if len(rows) > 1 else rows


def _row(low: float, high: float, part: Sequence[Scored]) -> Row:
    levels = dict.fromkeys(level for each in part for level in each.inside)
    names = dict.fromkeys(name for each in part for name in each.baseline_errors)
    errors = {
        name: [abs(each.baseline_errors[name]) for each in part if name in each.baseline_errors] for name in names
    }
    return Row(
        low,
        high,
        len(part),
        {level: sum(each.inside.get(level, False) for each in part) for level in levels},
        median(abs(each.error) for each in part),
        max(abs(each.error) for each in part),
        sum(each.width for each in part) / len(part),
        {name: median(values) for name, values in errors.items()},
    )


def scored_of(name: str, prediction: PredictionRecord, score: ScoreRecord) -> Scored:
    """A prediction and its score. Errors and hits are computed again: of the score, only the measured loss counts."""
    low, high = prediction.intervals["0.9"]
    measured = score.measured
    return Scored(
        name,
        prediction.ratio,
        prediction.loss / measured - 1.0,
        (high - low) / prediction.loss,
        (low / measured - 1.0, high / measured - 1.0),
        {level: low <= measured <= high for level, (low, high) in prediction.intervals.items()},
        {name: loss / measured - 1.0 for name, loss in prediction.baselines.items()},
        prediction.metric,
    )
