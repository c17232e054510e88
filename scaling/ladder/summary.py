"""The results of a ladder: the held-out losses of each rung, and the noise between its seeds. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.trial import Trial


@dataclass(frozen=True)
class RungResult:
    """The losses of a rung."""

    losses: tuple[float | None, ...]
    """Held-out losses of the seeds at the end of training, nats per token; None: not known yet, or diverged."""
    num_diverged: int = 0

    @property
    def known(self) -> tuple[float, ...]:
        """The losses of the runs that finished."""
        return tuple(loss for loss in self.losses if loss is not None)

    @property
    def mean(self) -> float | None:
        """Mean loss of the runs that finished."""
        return fmean(self.known) if self.known else None

    @property
    def std(self) -> float | None:
        """Standard deviation between seeds, nats per token, with n - 1 in the denominator; None with fewer than two."""
        return stdev(self.known) if len(self.known) > 1 else None


def result_of(trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> RungResult:
    """The result of the runs of one rung; `outcomes` are by the key of the trial."""
    ended = [outcomes.get(trial.key) for trial in trials]
    losses = tuple(None if outcome is None else outcome.val_loss for outcome in ended)
    return RungResult(losses, sum(outcome is not None and outcome.status == "diverged" for outcome in ended))


def pooled_noise(results: Sequence[RungResult]) -> float | None:
    """Standard deviation of one run's loss between seeds, relative to the loss, over all rungs; None without seeds.

    Variances are weighted by their degrees of freedom, as for several groups with one variance.
    """
    squares, freedom = 0.0, 0
    for result in results:
        if result.std is not None and result.mean:
            squares += (len(result.known) - 1) * (result.std / result.mean) ** 2
            freedom += len(result.known) - 1
    return math.sqrt(squares / freedom) if freedom else None
