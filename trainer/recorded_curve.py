"""The steps and evaluations of a run's metrics as columns, for the plot and the table at its end."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Self

from foretrain.trainer.metrics import FINAL_SHARE, VAL_LOSS, iter_metrics

_OF_STEPS = ("step", "tokens", "loss", "lr", "step_s", "tokens_per_s")


def _columns() -> dict[str, "array[float]"]:
    return {name: array("d") for name in _OF_STEPS}


@dataclass
class RecordedCurve:
    """The curve of a run. It takes about 60 bytes of memory for a step, of which the records would take 1,800."""

    steps: dict[str, "array[float]"] = field(default_factory=_columns)
    """Each metric of _OF_STEPS, with a value for each training step; NaN where the record has none."""
    losses_of_updates: "array[float]" = field(default_factory=lambda: array("d"))
    """The training losses of the steps that updated."""
    evaluated_steps: "array[float]" = field(default_factory=lambda: array("d"))
    held_out_losses: "array[float]" = field(default_factory=lambda: array("d"))
    last_evaluation: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The curve in a metrics file. Raises ValueError and FileNotFoundError as `read_metrics` does."""
        return cls.of(iter_metrics(path))

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """The curve in the records of a metrics file."""
        curve = cls()
        for record in records:
            if record["kind"] == "train":
                for name, column in curve.steps.items():
                    column.append(record.get(name, nan))
                if "skipped" not in record:
                    curve.losses_of_updates.append(record["loss"])
            elif record["kind"] == "eval":
                curve.evaluated_steps.append(record["step"])
                curve.held_out_losses.append(record[VAL_LOSS])
                curve.last_evaluation = dict(record)
        return curve

    def __len__(self) -> int:
        """The number of training steps."""
        return len(self.steps["step"])

    @property
    def final_loss(self) -> float:
        """The mean training loss over the last FINAL_SHARE of the steps that updated, in nats per token."""
        last = self.losses_of_updates[-max(1, round(FINAL_SHARE * len(self.losses_of_updates))) :]
        return sum(last) / len(last)
