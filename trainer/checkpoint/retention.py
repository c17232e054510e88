"""Which checkpoints of a run are kept. Pure arithmetic."""

from collections.abc import Collection, Mapping
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

    @classmethod
    def of(cls, train: TrainConfig) -> Self:
        """What a config asks for."""
        return cls(train.keep_checkpoints, train.keep_every, train.keep_best)

    def superseded(self, steps: Collection[int], losses: Mapping[int, float]) -> list[int]:
        """The steps whose checkpoints are removed, oldest first; `losses` are those held-out losses that are known.

        A loss of NaN is never the least.
        """
        if not self.newest:
            return []
        known = [step for step in steps if not isnan(losses.get(step, nan))]  # NaN would spoil the order
        by_loss = sorted(known, key=lambda step: (losses[step], step))
        kept = {*sorted(steps)[-self.newest :], *by_loss[: self.best]}
        return [step for step in sorted(steps) if step not in kept and not (self.every and step % self.every == 0)]
