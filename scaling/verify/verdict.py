"""What is the same curve and what is not. Pure.

A layout adds up the same numbers in another order. In fp32 each sum is then off by a few units of 2^-24 = 6e-8; in
bf16, where each activation keeps 8 bits, by a few of 2^-8 = 4e-3 for a single value, and less for a mean over a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foretrain.scaling.verify.plan import Precision, Trial
from foretrain.trainer.curve import Curve, relative_difference


@dataclass(frozen=True)
class Distance:
    """Of two curves: the largest relative differences over all steps."""

    loss: float
    grad_norm: float

    @classmethod
    def between(cls, curve: Curve, expected: Curve) -> "Distance":
        return cls(
            relative_difference(curve.losses, expected.losses),
            relative_difference(curve.grad_norms, expected.grad_norms),
        )


@dataclass(frozen=True)
class Expected:
    """What a trial is held to."""

    near: Curve
    """One process in the trial's own precision."""
    exact: Curve
    """One process in float64."""


@dataclass(frozen=True)
class Tolerance:
    """How far a curve may be from what is expected."""

    near: Distance
    exact: Distance


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(near=Distance(1e-5, 1e-5), exact=Distance(1e-5, 1e-5)),
    "bf16": Tolerance(near=Distance(1e-3, 4e-2), exact=Distance(3e-3, 6e-2)),
}
"""fp32: thirty times the largest difference measured for any sound layout over ten steps, 4e-7; the faintest planted
fault, clipping by a local norm, whose scale Adam nearly cancels, is a hundred times that. bf16: about three times the
largest measured (near 3e-4 and 1.5e-2, exact 1.1e-3 and 2.3e-2), which grow with depth; there only coarse faults show,
so fp32 is the sharper test of a layout, and bf16 one of what is done in bf16 alone.
"""


@dataclass(frozen=True)
class Verdict:
    """What a trial came to."""

    trial: Trial
    near: Distance | None
    """From one process in the same precision; None where the ranks came to no curve."""
    exact: Distance | None
    """From one process in float64."""
    same_weights: bool
    """Whether the initial weights are bitwise those of one process."""
    problems: tuple[str, ...]
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether the layout has the curve of one process."""
        return not self.problems


def judge(trial: Trial, curve: Curve, expected: Expected, wall_s: float) -> Verdict:
    """Hold the curve of a trial to what is expected."""
    near, exact = Distance.between(curve, expected.near), Distance.between(curve, expected.exact)
    tolerance = TOLERANCES[trial.precision]
    problems = list(_too_far("one process", near, tolerance.near)) or list(_too_far("float64", exact, tolerance.exact))
    problems += _other_weights(curve.weights, expected.near.weights)
    return Verdict(trial, near, exact, curve.weights == expected.near.weights, tuple(problems), wall_s)


def _too_far(what: str, distance: Distance, tolerance: Distance) -> Iterator[str]:
    for name in ("loss", "grad_norm"):
        value, limit = getattr(distance, name), getattr(tolerance, name)
        if value > limit:
            yield f"{name} is off by {value:.1e} from {what}, and {limit:.0e} is allowed"


def _other_weights(weights: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    other = [name for name in expected.keys() | weights.keys() if weights.get(name) != expected.get(name)]
    if other:
        shown = ", ".join(sorted(other)[:3]) + (" ..." if len(other) > 3 else "")
        yield f"{len(other)} of {len(expected)} parameters start from other weights: {shown}"
