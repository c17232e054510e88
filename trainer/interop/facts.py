"""What is known of the run of a checkpoint: from the checkpoint, and from the folder of its run if that is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.configs.schema import Config
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS, VAL_LOSS_ERROR, iter_metrics
from foretrain.trainer.recorded_curve import RecordedCurve
from foretrain.trainer.run.folder import CHECKPOINTS, PREDICTION_FILE
from foretrain.trainer.run.predicted import SealedPrediction


@dataclass(frozen=True)
class Facts:
    """The numbers of a run up to one of its checkpoints. Losses are in nats per token."""

    config: Config
    record: CheckpointRecord
    train_loss: float | None = None
    """Mean over the last tenth of the steps; None if the metrics of the run are not known."""
    val_loss: float | None = None
    """Held-out loss; None if nothing was evaluated."""
    val_loss_step: int | None = None
    val_loss_error: float | None = None
    """Its standard error; None if it is not known."""
    prediction: SealedPrediction | None = None
    """What was predicted of the run before it started."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the optimizer has consumed."""
        return self.record.samples_consumed * self.config.model.seq_len

    @property
    def total_steps(self) -> int:
        """Steps of the complete budget, rounded up."""
        return -(-self.config.train.num_tokens // (self.config.train.global_batch_size * self.config.model.seq_len))

    @property
    def is_complete(self) -> bool:
        """Whether the budget is used up."""
        return self.record.step >= self.total_steps


def facts_of(checkpoint: Place, config: Config, record: CheckpointRecord, run_dir: Path | None) -> Facts:
    """The facts of a checkpoint and of the folder of its run, if that is known.

    Raises ValueError, which names the file, for metrics or a prediction that were damaged or changed.
    """
    run_dir = run_dir or _run_of(checkpoint)
    curve, prediction = RecordedCurve(), None
    if run_dir is not None:
        if (metrics := run_dir / METRICS_FILE).is_file():
            curve = RecordedCurve.of(_until(metrics, record.step))
        if (file := run_dir / PREDICTION_FILE).is_file():
            prediction = SealedPrediction.read(file)
    evaluation = curve.last_evaluation or {}
    val_loss, step, error = evaluation.get(VAL_LOSS), evaluation.get("step"), evaluation.get(VAL_LOSS_ERROR)
    if record.val_loss is not None and step != record.step:
        val_loss, step, error = record.val_loss, record.step, None
    train_loss = curve.final_loss if curve.losses_of_updates else None
    return Facts(config, record, train_loss, val_loss, step, error, prediction)


def _run_of(checkpoint: Place) -> Path | None:
    """The folder of the run that has a checkpoint; None if the checkpoint is elsewhere."""
    if not isinstance(checkpoint, Path):
        return None
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == CHECKPOINTS else None


def _until(metrics: Path, step: int) -> Iterator[dict[str, Any]]:
    return (record for record in iter_metrics(metrics) if record["step"] <= step)
