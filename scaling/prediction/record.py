"""The files of fits, predictions and scores, with the seal that shows whether one was changed."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from foretrain.files import write_atomically
from foretrain.trainer.metrics import VAL_LOSS
from foretrain.trainer.prediction.sealed import PREDICTION, SEAL, VERSION, read_sealed, seal_of


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A file with a seal: its fields, and how it is written and read."""

    KIND: ClassVar[str] = ""
    """What the file is, as people call it."""

    def write(self, path: Path) -> str:
        """Write the file with its seal, and return the seal."""
        values = {"kind": self.KIND, "version": VERSION, **asdict(self)}
        seal = seal_of(values)
        write_atomically(path, json.dumps({**values, SEAL: seal}, indent=1) + "\n", durable=True)
        return seal

    @classmethod
    def read(cls, path: Path) -> Self:
        """The content of a file, as `read_with_seal` reads it."""
        return cls.read_with_seal(path)[0]

    @classmethod
    def read_with_seal(cls, path: Path) -> tuple[Self, str]:
        """The content of a file, and its seal.

        Raises ValueError, which names the file, if it is another one or was changed after it was sealed.
        """
        values = read_sealed(path, cls.KIND)
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        try:
            return cls(**known), values[SEAL]
        except (TypeError, ValueError) as error:  # a field, or a part of one, is missing
            raise ValueError(f"{path} is not a complete {cls.KIND} ({error}): make a new one") from error


@dataclass(frozen=True, kw_only=True)
class FitRecord(Sealed):
    """`fit.json`: the runs, the law that was fitted to them, and what is known of it."""

    KIND: ClassVar[str] = "fit"

    law: str
    """Its name in the registry of laws."""
    formula: str
    embeddings: bool
    """Whether N counts embeddings."""
    runs: list[dict[str, Any]]
    """Name, loss, loss_error, seed, N, D and C of each run, and the SHA-256 of its metrics, if it is in a folder."""
    same: dict[str, Any]
    """What the runs share, such as the tokenizer, by the name of the field."""
    parameters: dict[str, Any]
    """Value and intervals of each parameter; an end that is not bounded is null. `bootstrap` has those from resampled
    runs; null: too few sizes to resample."""
    unidentified: list[str]
    """Parameters that the runs do not bound on both sides."""
    objective: float
    delta: float
    run_std: float | None
    """The standard deviation of the logarithm of the loss of one run, by its seed; None: the runs do not show it."""
    noise_freedom: int
    """Replicates beyond one for each size; 0: the noise is that of the runs around the law."""
    misfit: float | None
    """The probability that noise alone is as far from the law."""
    backtest: list[dict[str, Any]]
    """For each range of extrapolation: cases, errors and coverage."""
    widening: float
    """By how much intervals of the law alone are too narrow, as the back-test shows."""
    reach: float
    """The largest compute that the runs support, over that of the largest run."""
    curves: dict[str, Any] = field(default_factory=dict)
    """The loss curves of the runs, see scaling/prediction/curves.py; or `refused`, which says why they have none."""
    metric: str = VAL_LOSS
    """What the losses of the runs are, as the metrics of runs call it: the held-out loss, or what is in its place."""
    problems_sha256: str = ""
    """If that is a metric of a task: the fingerprint of its problems, if the runs say it."""
    code: str = ""
    time: str = ""

    def __post_init__(self) -> None:
        for number, run in enumerate(self.runs):
            if missing := {"name", "loss", "C"} - run.keys():
                raise ValueError(f"run {number} has no {sorted(missing)[0]}")


@dataclass(frozen=True, kw_only=True)
class PredictionRecord(Sealed):
    """`prediction.json`: the loss that is predicted for a run that has not started."""

    KIND: ClassVar[str] = PREDICTION

    target: dict[str, Any]
    """N, D, C, tokens and settings of the run, and what it shares with the runs of the fit."""
    loss: float
    """Predicted held-out loss after the last step, nats per token; or what `metric` names in its place."""
    intervals: dict[str, list[float]]
    """For one run, by level: the uncertainty of the law, its discrepancy, and the noise of a seed."""
    mean_intervals: dict[str, list[float]]
    """For the mean of many runs, by level."""
    ratio: float
    """Compute of the target over that of the largest run of the fit."""
    fit: dict[str, Any]
    """The seal of the fit, and what was used of it: its runs, and the law that was fitted to them."""
    if_right: dict[str, list[float | None]] = field(default_factory=dict)
    """For one run, by level, if the law has no discrepancy; an end that is not bounded is null."""
    baselines: dict[str, float] = field(default_factory=dict)
    """What simpler rules predict, for comparison."""
    curve: dict[str, Any] = field(default_factory=dict)
    """The loss curve, as `PredictedCurve` has it; or `refused`, which says why there is none."""
    metric: str = VAL_LOSS
    """What is predicted, as in `FitRecord`."""
    problems_sha256: str = ""
    code: str = ""
    time: str = ""
    """When it was sealed, in UTC."""


@dataclass(frozen=True, kw_only=True)
class ScoreRecord(Sealed):
    """`*.score.json`: how a prediction did."""

    KIND: ClassVar[str] = "score"

    prediction: str
    """The seal of the prediction."""
    run: str
    """The folder of the run."""
    measured: float
    error: float
    inside: dict[str, bool]
    baseline_errors: dict[str, float]
    problems: list[str]
    """Why the score does not count; empty if it does."""
    began: str = ""
    """When the run began, in UTC; "" if that is not known."""
    sha256: str = ""
    """SHA-256 of the metrics of the run."""
    time: str = ""
    """When the score was made, in UTC."""
