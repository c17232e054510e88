"""The results of a sweep: the mean over seeds at every point, and the best point of each shape. Pure."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeGuard

from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.trial import Trial, Value


@dataclass(frozen=True)
class PointResult:
    """One setting at one width and depth, over the seeds that have ended."""

    shape: tuple[int, int]
    """Width and depth."""
    values: dict[str, Value]
    losses: tuple[float, ...]
    """Losses of the seeds that finished."""
    val_losses: tuple[float, ...]
    num_diverged: int

    @property
    def loss(self) -> float:
        """Mean over seeds, nats per token; infinite if one diverged."""
        return math.inf if self.num_diverged else fmean(self.losses)

    @property
    def val_loss(self) -> float | None:
        """Mean held-out loss over seeds."""
        return fmean(self.val_losses) if self.val_losses else None

    @property
    def spread(self) -> float:
        """Difference of the worst and the best seed."""
        return max(self.losses) - min(self.losses) if self.losses else 0.0


def points(trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> list[PointResult]:
    """The points of all final trials that have an outcome, in the order of the plan."""
    found: dict[tuple, list[tuple[Trial, Outcome]]] = defaultdict(list)
    for trial in trials:
        if not trial.is_rung and trial.key in outcomes:
            found[trial.point].append((trial, outcomes[trial.key]))
    return [_point(each[0][0], [outcome for _, outcome in each]) for each in found.values()]


def best(found: Sequence[PointResult]) -> dict[tuple[int, int], PointResult | None]:
    """The point with the lowest mean loss, by shape; None if all have diverged."""
    chosen: dict[tuple[int, int], PointResult | None] = {}
    for shape in sorted({point.shape for point in found}):
        finite = [point for point in found if point.shape == shape and math.isfinite(point.loss)]
        chosen[shape] = min(finite, key=lambda point: point.loss, default=None)
    return chosen


def at_edge(point: PointResult, key: str, trials: Sequence[Trial]) -> bool:
    """Whether the value of an axis is the smallest or the largest number that was tried, among three or more."""
    tried = {value for trial in trials if is_number(value := trial.values[key])}
    return len(tried) > 2 and point.values[key] in (min(tried), max(tried))


def is_number(value: Value) -> TypeGuard[int | float]:
    """Whether a value is a number, so that values have an order."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point(trial: Trial, outcomes: Sequence[Outcome]) -> PointResult:
    return PointResult(
        trial.shape,
        trial.values,
        tuple(outcome.loss for outcome in outcomes if outcome.loss is not None),
        tuple(outcome.val_loss for outcome in outcomes if outcome.val_loss is not None),
        sum(outcome.status == "diverged" for outcome in outcomes),
    )
