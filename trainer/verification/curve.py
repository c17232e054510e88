"""A few steps of a run as numbers, and the difference between two such curves. Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """The results of a few steps, the same on every rank."""

    losses: tuple[float, ...]
    """Loss of each step before its update: the mean over the valid tokens of the global batch, in nats."""
    grad_norms: tuple[float, ...]
    """Global L2 norm of the gradient of each step, before clipping."""
    weights: dict[str, str]
    """The sha256 of every complete parameter before the first step, by name; if copies differ, of each copy."""


def relative_difference(values: Sequence[float], expected: Sequence[float]) -> float:
    """The largest |value - expected| / |expected|; infinity if any number is not finite."""
    assert len(values) == len(expected)
    if not all(map(math.isfinite, [*values, *expected])):
        return math.inf
    return max(abs(a - b) / abs(b) if b else (math.inf if a else 0.0) for a, b in zip(values, expected, strict=True))
