"""The score of a sealed prediction: what its run has measured, and whether it began after the seal."""

from dataclasses import dataclass
from datetime import UTC, datetime

from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
from foretrain.trainer.prediction.target import SAME, mismatches, settings_of


@dataclass(frozen=True)
class Score:
    """How a prediction did."""

    measured: float
    """Held-out loss of the run, nats per token; or the metric that was predicted."""
    error: float
    """Predicted loss over the measured one, minus 1."""
    inside: dict[str, bool]
    """Whether the loss is in the interval, by level."""
    baseline_errors: dict[str, float]
    """The errors of simpler rules."""
    problems: list[str]
    """Why the score does not count; empty if it does."""
    began: str
    """When the run began, in UTC; "" if that is not known."""
    sha256: str
    """SHA-256 of the metrics of the run."""

    @property
    def counts(self) -> bool:
        """Whether the prediction was made for this run, before it began."""
        return not self.problems

    def record(self, run: str, prediction: str) -> ScoreRecord:
        """The file of the score. `run`: the run's folder; `prediction`: the seal of the prediction."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return ScoreRecord(run=run, prediction=prediction, time=now, **vars(self))


def score(prediction: PredictionRecord, run: RunFacts, began: datetime | None) -> Score:
    """The score of a prediction. `began`: when the run began; None: it is not known, and the score does not count.

    Raises ValueError if the run's loss is another metric than the predicted one.
    """
    if run.metric != prediction.metric:
        raise ValueError(f"the prediction is of {prediction.metric}, and {run.metric} of {run.name} was read")
    return Score(
        measured=run.loss,
        error=prediction.loss / run.loss - 1.0,
        inside={level: low <= run.loss <= high for level, (low, high) in prediction.intervals.items()},
        baseline_errors={name: loss / run.loss - 1.0 for name, loss in prediction.baselines.items()},
        problems=_problems(prediction, run, began),
        began="" if began is None else began.isoformat(timespec="seconds"),
        sha256=run.metrics_sha256,
    )


def _problems(prediction: PredictionRecord, run: RunFacts, began: datetime | None) -> list[str]:
    found, sealed = [], _time(prediction.time)
    if sealed is None:
        found.append(f"the prediction does not say when it was sealed (time = {prediction.time!r})")
    elif began is None:
        found.append("the run does not say when it began: predictions count for runs that begin after their seal")
    elif began <= sealed:
        found.append(f"the run began at {began.isoformat(timespec='seconds')}, before the seal ({prediction.time})")
    if run.parent:
        found.append(f"the run started with the weights of another, {run.parent}, which may be older than the seal")
    found.extend(f"the data of the run were changed before its end: {change}" for change in run.data_changes)
    expected = prediction.problems_sha256
    if expected and run.problems_sha256 != expected:
        found.append(
            f"the run was evaluated on other problems of the task of {prediction.metric} than those of the fit"
        )
    counts = (run.num_params, run.num_params_without_embeddings)
    same = {field: getattr(run, field) for field in SAME}
    settings = settings_of(run.config) if run.config is not None else None
    return found + mismatches(prediction.target, counts, run.num_tokens, run.flops, same, settings)


def _time(text: str) -> datetime | None:
    """A point in time; None if the text is none, or has no time zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
