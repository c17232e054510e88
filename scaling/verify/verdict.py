"""Whether the curve of a layout is that of one process. Pure.

A layout adds up the same numbers in another order. In fp32 each sum then differs by a few units of 2^-24 = 6e-8. In
bf16 each activation keeps 8 bits, so a single value differs by a few units of 2^-8 = 4e-3, and a mean over a batch by
less.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foretrain.scaling.verify.plan import LayoutTrial, Precision
from foretrain.trainer.verification.curve import Curve, relative_difference


@dataclass(frozen=True)
class Distance:
    """The largest relative differences of two curves over all steps."""

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
    """The curves that a trial is compared with."""

    near: Curve
    """One process in the trial's own precision."""
    exact: Curve
    """One process in float64."""


@dataclass(frozen=True)
class Tolerance:
    """The largest distances that are allowed."""

    near: Distance
    exact: Distance


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(near=Distance(1e-5, 1e-5), exact=Distance(1e-5, 1e-5)),
    "bf16": Tolerance(near=Distance(1e-3, 4e-2), exact=Distance(3e-3, 6e-2)),
}
"""fp32: thirty times the largest difference that was measured for a correct layout over ten steps, 4e-7. The planted
fault with the smallest effect is clipping by a local norm, because Adam nearly cancels the scale of a gradient; its
difference is a hundred times larger than the tolerance. bf16: about three times the largest differences measured (near
3e-4 and 1.5e-2, exact 1.1e-3 and 2.3e-2), which grow with depth. In bf16 only large faults are visible: fp32 is the
sharper test of a layout, and bf16 tests what happens in bf16 alone.
"""


@dataclass(frozen=True)
class LayoutVerdict:
    """The result of a trial."""

    trial: LayoutTrial
    near: Distance | None
    """Distance from one process in the same precision; None if the ranks did not return a curve."""
    exact: Distance | None
    """Distance from one process in float64."""
    same_weights: bool
    """Whether the initial weights are bitwise those of one process."""
    problems: tuple[str, ...]
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether the layout has the curve of one process."""
        return not self.problems

    @property
    def summary(self) -> str:
        """The verdict in one word."""
        return "same" if self.passed else "DIFFERS"


def judge(trial: LayoutTrial, curve: Curve, expected: Expected, wall_s: float) -> LayoutVerdict:
    """Compare the curve of a trial with what is expected."""
    near, exact = Distance.between(curve, expected.near), Distance.between(curve, expected.exact)
    tolerance = TOLERANCES[trial.precision]
    problems = list(_too_far("one process", near, tolerance.near)) or list(_too_far("float64", exact, tolerance.exact))
    problems += _other_weights(curve.weights, expected.near.weights)
    return LayoutVerdict(trial, near, exact, curve.weights == expected.near.weights, tuple(problems), wall_s)


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
