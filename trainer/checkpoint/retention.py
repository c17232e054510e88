"""Which checkpoints of a run are kept. Pure arithmetic."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Self

from foretrain.configs.schema import TrainConfig


@dataclass(frozen=True)
class Retention:
    """How many checkpoints of a run are kept. The newest is kept in any case."""

    newest: int
    """Number of the newest that are kept; 0: all."""
    every: int = 0
    """Those of multiples of this number of steps are kept; 0: none."""
    best: int = 0
    """Number of those with the least held-out loss that are kept."""
    rollback_every: int = 0
    """The newest of a multiple of this number of steps is kept, since a rollback goes there; 0: none."""

    @classmethod
    def of(cls, train: TrainConfig) -> Self:
        """What a config asks for."""
        rollback_every = train.checkpoint_every if train.rolls_back else 0
        return cls(train.keep_checkpoints, train.keep_every, train.keep_best, rollback_every)

    def most(self, steps: Sequence[int]) -> int:
        """The most checkpoints that there are at the same time, if they are written at `steps` and at some others.

        That includes the one that is written before the oldest is removed. If all are kept, others do not count.
        """
        if not self.newest:
            return len(steps)
        permanent = sum(step % self.every == 0 for step in steps) if self.every else 0
        return permanent + self.newest + self.best + bool(self.rollback_every) + 1

    def rollback_target(self, steps: Collection[int]) -> int:
        """The step of the checkpoint to which a run goes back, of the steps whose checkpoints there are.

        Checkpoints that were written because of the time, or because a run was stopped, do not count if there are
        others: a run that was stopped goes back to the same step as one that was not.
        """
        regular = [step for step in steps if self.rollback_every and step % self.rollback_every == 0]
        return max(regular or steps)

    def superseded(self, steps: Collection[int], losses: Mapping[int, float]) -> list[int]:
        """The steps whose checkpoints are removed, oldest first; `losses` are those held-out losses that are known.

        A loss of NaN is never the least.
        """
        if not self.newest:
            return []
        known = [step for step in steps if not isnan(losses.get(step, nan))]  # NaN would spoil the order
        by_loss = sorted(known, key=lambda step: (losses[step], step))
        kept = {*sorted(steps)[-self.newest :], *by_loss[: self.best]}
        if steps and self.rollback_every:
            kept.add(self.rollback_target(steps))
        return [step for step in sorted(steps) if step not in kept and not (self.every and step % self.every == 0)]
