"""Compares the training curves of two runs, step by step. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COMPARED = ("loss", "grad_norm")


@dataclass(frozen=True)
class Comparison:
    """How two curves differ."""

    num_steps: int
    num_different: int
    """Steps at which loss or gradient norm differ in any bit, or that only one curve has."""
    loss: float
    """The greatest relative difference of the loss; infinite if a step is missing or a number is not finite."""
    grad_norm: float
    """The same for the gradient norm."""

    @property
    def is_same(self) -> bool:
        """Whether the curves have the same bits."""
        return self.num_different == 0

    def record(self, prefix: str) -> dict[str, Any]:
        """The comparison for a results file, where infinity is written as text."""
        return {
            f"{prefix}_steps": self.num_steps,
            f"{prefix}_different_steps": self.num_different,
            f"{prefix}_loss_difference": _plain(self.loss),
            f"{prefix}_grad_norm_difference": _plain(self.grad_norm),
        }


def compare(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> Comparison:
    """Compare the records of training steps of two runs, by the number of the step."""
    left, right = ({record["step"]: record for record in records} for records in (found, expected))
    steps = sorted(left.keys() | right.keys())
    distances = {name: [_distance(left.get(step), right.get(step), name) for step in steps] for name in COMPARED}
    different = sum(any(each) for each in zip(*distances.values(), strict=True))
    if len(left) != len(found) or len(right) != len(expected):
        raise ValueError("a curve has the same step twice")
    return Comparison(len(steps), different, *(max(distances[name], default=math.inf) for name in COMPARED))


def _distance(found: Mapping[str, Any] | None, expected: Mapping[str, Any] | None, name: str) -> float:
    if found is None or expected is None:
        return math.inf
    a, b = float(found[name]), float(expected[name])
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf  # a run that diverged agrees with nothing
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
