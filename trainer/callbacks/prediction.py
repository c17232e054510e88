"""The callback that compares the training loss of a run with its sealed prediction: `train.prediction`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foretrain.files import write_atomically
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.prediction.curve import SHOWN_LEVEL, PredictedCurve, Standing, standing
from foretrain.trainer.prediction.windows import WindowMeans
from foretrain.trainer.run.folder import PREDICTION_FILE
from foretrain.trainer.run.predicted import SealedPrediction

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

DISTANCE = "prediction_z"
"""The metric with the distance of the last window from the predicted curve, in standard deviations of its band."""


class PredictionWatch(Callback):
    """Compares means of the training loss over windows of tokens with the predicted curve, and warns if the run leaves
    it.

    It warns once when one of the two averages of `trainer/prediction/course.py` exceeds its limit, and says when the
    run is back where it was before. `PredictedCurve.false_alarm`, 1 %, is the share of sound runs of which it ever
    warns, if their noise is that of the ladder's runs. With few runs the limits are larger, since they show the noise
    worse. No limit is below what the ladder's own runs have reached.

    All ranks have the loss of a step, with the same bits, and compute the same; nothing is exchanged. A resumed run
    continues with the means in its checkpoint. If it resumes with another prediction, the steps before are not known.
    """

    name = "prediction"

    def __init__(self, prediction: SealedPrediction) -> None:
        self._prediction = prediction
        self._windows = self._new_windows()
        self._standing: Standing | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        prediction, run = self._prediction, trainer.run
        if trainer.groups.rank == 0:
            write_atomically(run.run_dir / PREDICTION_FILE, prediction.content)
        without = "" if prediction.curve else f"; it has no loss curve, since {prediction.why_none}"
        trainer.report.event(
            "prediction",
            run.start_step,
            {"path": str(prediction.path), "seal": prediction.seal, "val_loss": prediction.loss},
            f"predicted held-out loss at the end: {prediction.loss:.4f} ({prediction.path}){without}",
        )

    def on_step(self, trainer: Trainer, step: Step) -> None:
        curve = self._prediction.curve
        if curve is None:
            return
        total, loss = trainer.run.total_steps, step.metrics["loss"]
        if "skipped" in step.metrics:
            loss = float("nan")
        before = self._standing
        if self._windows.add((step.number - 1) / total, step.number / total, loss):
            self._standing = self._judged()
        expected = curve.at(step.metrics["tokens"])
        if expected is not None:
            step.metrics["predicted_loss"] = expected
        if self._standing is not None:
            step.metrics[DISTANCE] = self._standing.distance
            if self._standing.is_outside != (before is not None and before.is_outside):
                self._report(trainer, step, curve, self._standing)

    def state(self) -> dict[str, Any]:
        return {"seal": self._prediction.seal, **self._windows.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        state = dict(state)
        is_same = state.pop("seal") == self._prediction.seal
        self._windows = self._new_windows(**(state if is_same else {}))
        self._standing = self._judged()

    def _new_windows(self, **state: Any) -> WindowMeans:
        curve = self._prediction.curve
        return WindowMeans(curve.edges, **state) if curve else WindowMeans(**state)

    def _judged(self) -> Standing | None:
        curve = self._prediction.curve
        return standing(curve, self._windows.means()) if curve else None

    @staticmethod
    def _report(trainer: Trainer, step: Step, curve: PredictedCurve, now: Standing) -> None:
        expected, (low, high) = curve.loss[now.window], curve.bounds[SHOWN_LEVEL][now.window]
        band = f"{expected:.4f}, {100 * float(SHOWN_LEVEL):g} % band {low:.4f} to {high:.4f}"
        where = f"step {step.number}: the training loss, {now.mean:.4f} in the last window"
        if now.is_outside:
            kind = "left_prediction"
            text = (
                f"{where}, has left the predicted curve ({band}): {now.distance:+.1f} standard deviations. "
                f"{100 * curve.false_alarm:g} % of sound runs ever do so: look for what differs from the runs of the "
                "prediction"
            )
        else:
            kind, text = "back_in_prediction", f"{where}, is back on the predicted curve ({band})"
        facts = {"loss": now.mean, "predicted_loss": expected, "low": low, "high": high, DISTANCE: now.distance}
        trainer.report.event(kind, step.number, facts, text)
