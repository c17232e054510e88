"""Which trials have diverged. Pure: what a curve is called depends on the curve alone, and not on when one looked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN_NATS = 1.0
"""Above the loss at the start: a model that knows nothing and says so is better by a factor of e in probability."""
MAX_LOST = 0.5
"""Of what had been learnt at best, counted from the start: who has lost more, and MARGIN_NATS, does not find back."""
PATIENCE_SHARE, MIN_PATIENCE_STEPS = 0.05, 10
"""So long a loss must stay too high, as a share of all steps and at least: a spike that heals is none."""


@dataclass(frozen=True)
class Steps:
    """What the rule must know of a run, apart from its curve."""

    total: int
    warmup: int
    """Steps until the learning rate is at its peak: what is lost before is still to be judged."""

    @property
    def patience(self) -> int:
        """Steps in a row that decide."""
        return max(MIN_PATIENCE_STEPS, round(PATIENCE_SHARE * self.total))


def diverged_at(losses: Sequence[float], grad_norms: Sequence[float], steps: Steps) -> int | None:
    """The step, counted from 1, at which a run had diverged; None where it has not so far.

    Diverged is a loss or gradient norm that is no number, or a loss that after warm-up is, for `steps.patience` steps
    in a row, MARGIN_NATS above the first one, or so far above the best mean of as many steps that MAX_LOST of the gain
    is lost. A step is judged by what came before it: the answer for a curve is that for each longer one.
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
