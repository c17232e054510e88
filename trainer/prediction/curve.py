"""The loss curve that a prediction foretells, and how a run does against it so far. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from foretrain.trainer.prediction.course import Averages, Noise, averages, distances
from foretrain.trainer.prediction.windows import Floats
from foretrain.typed_json import from_values

LEVEL_RETURN = 0.5
"""A run that has left its course is back only if the average of its distances is within this share of the limit."""
RETURN = 0.25
"""It must also have come back to this share of the largest distance from what the average was before it left."""
MEMORY = 6
"""Windows before an alarm at which the run is taken to have been on its course."""
SHOWN_LEVEL = "0.95"
"""The band that messages and plots show."""


@dataclass(frozen=True, kw_only=True)
class PredictedCurve:
    """The training loss of a run, as means over windows of its tokens, in nats per token."""

    edges: list[float]
    """Where the windows begin and end, as shares of the training tokens (K + 1)."""
    tokens: list[int]
    """Tokens trained at the end of each window (K)."""
    loss: list[float]
    """The expected mean training loss in each window (K)."""
    bounds: dict[str, list[list[float]]]
    """Low and high end of the band in each window, by level (K, 2)."""
    noise: dict[str, Any]
    """The fields of `Noise`."""
    limits: dict[str, float]
    """Limits of the averages `level` and `change` of course.py."""
    false_alarm: float
    """The share of sound runs that exceed a limit in any window."""
    schedule: dict[str, Any]
    """The schedule of the runs whose shape it has, as `schedule_shape` says it."""
    final_ratio: float
    """Training loss in the last window over the final held-out loss. They differ, since held-out samples are others,
    and were not trained on."""
    drift: str = "none"
    """How the shape depends on size: none, or linear in the logarithm of compute."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The curve in the values of a prediction. Raises ValueError if they are not one."""
        try:
            found = from_values(cls, values)
            from_values(Noise, found.noise)
        except ValueError as error:
            raise ValueError(f"its curve cannot be read: {error}") from error
        return found

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain values that JSON can hold."""
        return asdict(self)

    def middle_tokens(self) -> Floats:
        """Tokens trained in the middle of each window (K): where its mean is drawn."""
        edge_K = np.array(self.edges) * self.tokens[-1]
        return np.asarray((edge_K[1:] + edge_K[:-1]) / 2)

    def at(self, num_tokens: float) -> float | None:
        """The expected training loss after `num_tokens`; None before the first window."""
        if num_tokens < self.edges[0] * self.tokens[-1]:
            return None
        return float(np.interp(num_tokens, self.middle_tokens(), self.loss))


@dataclass(frozen=True)
class Standing:
    """How a run does after its last complete window."""

    window: int
    """The number of that window, from 0."""
    mean: float
    """The mean training loss in it."""
    distance: float
    """Its distance from the expected loss, in standard deviations of the band."""
    excess: float
    """The larger one of the two averages, over its limit."""
    is_outside: bool
    """Whether the run has left its course, and is not back."""


def excesses(curve: PredictedCurve, mean_K: Floats) -> Floats:
    """The larger one of the two averages, over its limit, after each window that has a mean (N).

    A mean is NaN where there is none.
    """
    return _excesses(curve, _averages(curve, mean_K))


def standing(curve: PredictedCurve, mean_K: Floats) -> Standing | None:
    """How a run does whose means are `mean_K`, NaN where there is none; None before the first mean."""
    known_N = np.flatnonzero(np.isfinite(mean_K))
    if not len(known_N):
        return None
    found = _averages(curve, mean_K)
    excess_N, last = _excesses(curve, found), int(known_N[-1])
    return Standing(
        last,
        float(mean_K[last]),
        float(distances(Noise(**curve.noise), _off(curve, mean_K))[last]),
        float(excess_N[-1]),
        _is_outside(found.level_BK[0], excess_N, curve.limits["level"]),
    )


def _is_outside(level_N: Floats, excess_N: Floats, limit: float) -> bool:
    """Whether a run has left its course, and is not back, after the last of its windows.

    It is back if the average of its distances is within half of the limit, and most of the way back to what it was
    before: a run that has changed inside of a wide band stays outside although its innovations are small again. From
    then on, only the average of its distances can take it outside, since its return is a change, too.
    """
    is_outside, was_outside, before, farthest = False, False, 0.0, 0.0
    for number, (level, excess) in enumerate(zip(level_N, excess_N, strict=True)):
        if not is_outside and (abs(level) / limit if was_outside else excess) >= 1.0:
            is_outside = was_outside = True
            farthest = 0.0
            before = float(level_N[number - MEMORY]) if number >= MEMORY else 0.0
        if is_outside:
            away = abs(level - before)
            farthest = max(farthest, away)
            is_outside = away > RETURN * farthest or abs(level) > LEVEL_RETURN * limit
    return is_outside


def _averages(curve: PredictedCurve, mean_K: Floats) -> Averages:
    known_N = np.flatnonzero(np.isfinite(mean_K))
    covariance_NN = Noise(**curve.noise).covariance()[np.ix_(known_N, known_N)]
    return averages(covariance_NN, _off(curve, mean_K)[None, known_N])


def _excesses(curve: PredictedCurve, found: Averages) -> Floats:
    level_N, change_N = np.abs(found.level_BK[0]), np.abs(found.change_BK[0])
    return np.maximum(level_N / curve.limits["level"], change_N / curve.limits["change"])


def _off(curve: PredictedCurve, mean_K: Floats) -> Floats:
    """How far a run is from the curve, in the logarithm of the loss (K)."""
    # A loss that is 0, as that of a model that has learned all by heart, has none.
    return np.asarray(np.log(np.maximum(mean_K, 1e-12)) - np.log(curve.loss))
