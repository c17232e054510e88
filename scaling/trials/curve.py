"""Which trials have diverged. Pure: the answer depends on the curve alone, and not on when it is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN_NATS = 1.0
"""A loss this far above the first one is high: a model that has learned nothing is better by a factor of e."""
MAX_LOST = 0.5
"""A run that has lost more than this share of its best gain since the start, and more than MARGIN_NATS, is high."""
PATIENCE_SHARE, MIN_PATIENCE_STEPS = 0.05, 10
"""How long a loss must stay high: a share of all steps, and at least this many. A spike that recovers does not
count."""


@dataclass(frozen=True)
class Steps:
    """What the rule needs to know about a run, besides its curve."""

    total: int
    warmup: int
    """Steps until the learning rate is at its peak. High losses before do not count."""

    @property
    def patience(self) -> int:
        """The number of consecutive high losses that means divergence."""
        return max(MIN_PATIENCE_STEPS, round(PATIENCE_SHARE * self.total))


def diverged_at(losses: Sequence[float], grad_norms: Sequence[float], steps: Steps) -> int | None:
    """The step, counted from 1, at which a run had diverged; None if it has not diverged so far.

    A run has diverged if its loss or gradient norm is not finite, or if after warm-up its loss is high for
    `steps.patience` consecutive steps. High is MARGIN_NATS above the first loss, or so far above the best mean of as
    many steps that MAX_LOST of the gain is lost. Only earlier steps decide about a step, so a longer curve gets the
    same answer.
    """
    num_high, best, recent = 0, math.inf, 0.0
    for step, (loss, grad_norm) in enumerate(zip(losses, grad_norms, strict=True), start=1):
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            return step
        high = loss > losses[0] + MARGIN_NATS or loss > best + max(MARGIN_NATS, MAX_LOST * (losses[0] - best))
        num_high = num_high + 1 if high and step > steps.warmup else 0
        if num_high == steps.patience:
            return step
        recent += loss - (losses[step - 1 - steps.patience] if step > steps.patience else 0.0)
        if step >= steps.patience:
            best = min(best, recent / steps.patience)
    return None
