"""A few steps of a run as numbers, and how far two such curves are apart. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """What a few steps were, the same on every rank."""

    losses: tuple[float, ...]
    """Of each step before its update: mean over the valid tokens of the global batch, nats."""
    grad_norms: tuple[float, ...]
    """Of each step: global L2 norm before clipping."""
    weights: dict[str, str]
    """Before the first step: the sha256 of every whole parameter by its name; of every copy, where copies differ."""


def relative_difference(values: Sequence[float], expected: Sequence[float]) -> float:
    """The largest |value - expected| / |expected|; infinite where any of them is not a finite number."""
    assert len(values) == len(expected)
    if not all(map(math.isfinite, [*values, *expected])):
        return math.inf
    return max(abs(a - b) / abs(b) if b else (math.inf if a else 0.0) for a, b in zip(values, expected, strict=True))
