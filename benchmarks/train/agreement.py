"""Whether contestants compute the same: what is measured of others is worthless. Imports no torch.

All contestants start from the same weights, and take the same steps. The losses of the first steps, the norms of their
gradients, and the norm of all weights before the first and after the last of them must be those of the reference, but
for rounding. A loss shows other weights, batches or models; a norm of gradients another scale of the loss, which Adam
does not feel; the norm of the weights another rate or decay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUM_CHECKED = 5
"""Steps that are compared."""


@dataclass(frozen=True)
class Tolerance:
    """Relative differences that rounding may make."""

    loss: float
    grad_norm: float
    initial_norm: float
    final_norm: float


TOLERANCES = {
    "fp32": Tolerance(loss=3e-5, grad_norm=3e-4, initial_norm=1e-6, final_norm=3e-6),
    "bf16": Tolerance(loss=2e-3, grad_norm=2e-2, initial_norm=2e-5, final_norm=5e-5),
}
"""By the precision. Contestants differ in what they round to bf16: some keep weights in it, others only products."""


@dataclass(frozen=True)
class Start:
    """The first steps of a contestant."""

    losses: Sequence[float]
    grad_norms: Sequence[float | None]
    """L2, before clipping; None: the contestant does not say."""
    initial_norm: float
    """The L2 norm of all weights before the first step."""
    final_norm: float
    """That after the last of these steps."""
    threads: int = 1
    """With which it computes on a CPU."""


def largest_difference(start: Start, reference: Start) -> float:
    """The largest relative difference of a loss."""
    return max(_relative(a, b) for a, b in zip(start.losses, reference.losses, strict=True))


def refusal(start: Start, reference: Start, precision: str) -> str | None:
    """Why a contestant does not compute the same as the reference; None if it does."""
    if start.threads != reference.threads:
        return f"it computes with {start.threads} threads, and the reference with {reference.threads}"
    tolerance = TOLERANCES[precision]
    for name, value, expected, limit in _compared(start, reference, tolerance):
        difference = _relative(value, expected)
        if not difference <= limit:  # nan, too
            return f"{name} is {value:.7g}, and {expected:.7g} in the reference: {difference:.1e} > {limit:.0e}"
    return None


def _compared(start: Start, reference: Start, tolerance: Tolerance) -> Iterator[tuple[str, float, float, float]]:
    """What is compared: its name, the two values, and the tolerance."""
    yield "the norm of the initial weights", start.initial_norm, reference.initial_norm, tolerance.initial_norm
    for number, (mine, other) in enumerate(zip(start.losses, reference.losses, strict=True), start=1):
        yield f"the loss of step {number}", mine, other, tolerance.loss
    for number, (norm, other_norm) in enumerate(zip(start.grad_norms, reference.grad_norms, strict=True), start=1):
        if norm is not None and other_norm is not None:
            yield f"the norm of the gradients of step {number}", norm, other_norm, tolerance.grad_norm
    last = len(start.losses)
    yield f"the norm of the weights after step {last}", start.final_norm, reference.final_norm, tolerance.final_norm


def _relative(value: float, expected: float) -> float:
    return abs(value - expected) / abs(expected)
