"""The sealed prediction of a run, `train.prediction`: whether it was made for this run, and where the run keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.trainer.metrics import VAL_LOSS
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.sealed import PREDICTION, SEAL, read_sealed
from foretrain.trainer.prediction.target import SAME, mismatches, schedule_differences, schedule_shape, settings_of

if TYPE_CHECKING:
    from foretrain.trainer.run.setup import Run

SETTING = "train.prediction"


@dataclass(frozen=True)
class SealedPrediction:
    """A prediction that was made for the run, and sealed."""

    path: Path
    seal: str
    loss: float
    """Predicted held-out loss after the last step, nats per token."""
    curve: PredictedCurve | None
    why_none: str
    """Why there is no curve; "" if there is one."""
    target: Mapping[str, Any] = field(repr=False)
    """The run that it was made for."""
    content: str = field(repr=False)
    """The complete file, of which the run keeps a copy."""

    @classmethod
    def read(cls, path: Path) -> SealedPrediction:
        """The prediction in a file. Raises ValueError, which names the file, if it is none or was changed."""
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a {PREDICTION}: {error}") from error
        values = read_sealed(path, PREDICTION, content)
        if (metric := values.get("metric", VAL_LOSS)) != VAL_LOSS:
            raise ValueError(
                f"{path} predicts {metric}, and a run is compared with a prediction of its loss: name one, or leave it "
                f"out; `foretrain score RUN --prediction {path}` scores this one"
            )
        loss, target, curve, why_none = values.get("loss"), values.get("target"), values.get("curve") or {}, ""
        if not (isinstance(loss, int | float) and isinstance(target, dict) and isinstance(curve, dict)):
            raise ValueError(f"{path} lacks the loss, the target or the curve of a {PREDICTION}: make a new one")
        if not curve:
            why_none = "it was made by an older version"
        elif "refused" in curve:
            why_none = str(curve["refused"])
        try:
            found = None if why_none else PredictedCurve.of(curve)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(path, values[SEAL], float(loss), found, why_none, target, content)


def prediction_of(run: Run) -> SealedPrediction | None:
    """The prediction that the run's config names; None if it names none.

    Raises ValueError, in one line with every reason, if it cannot be read, was changed, or is of another run.
    """
    if run.config.train.prediction is None:
        return None
    path = Path(run.config.train.prediction)
    try:
        found = SealedPrediction.read(path)
    except OSError as error:
        raise ValueError(f"{SETTING}: {path} cannot be read ({error.strerror}): correct the path") from error
    except ValueError as error:
        raise ValueError(f"{SETTING}: {error}") from error
    if reasons := _differences(run, found.target, found.curve):
        raise ValueError(
            f"{SETTING}: {path} is for another run: {'; '.join(reasons)}. Name the prediction of this config, or leave "
            "it out"
        )
    return found


def _differences(run: Run, target: Mapping[str, Any], curve: PredictedCurve | None) -> list[str]:
    """How the run differs from the target of a prediction."""
    config, data, size = run.config, run.data, ModelSize.of(run.config.model)
    num_tokens = run.total_steps * run.tokens_per_step
    known = {
        "tokenizer_sha256": data.any_stream.tokenizer_sha256,
        "data_fingerprint": data.fingerprint,
        "held_out_fingerprint": data.held_out_fingerprint,
        "mixture_fingerprint": data.mixture_fingerprint,
        "parametrization": config.mup.parametrization,
        "seq_len": config.model.seq_len,
    }
    assert tuple(known) == SAME, "a prediction may say of its run what is not compared"
    counts = (size.num_params, size.num_params_without_embeddings)
    found = mismatches(target, counts, num_tokens, size.flops(num_tokens), known, settings_of(config))
    if curve is not None:
        shape = schedule_shape(config.schedule, config.train.num_tokens)
        found += [f"its curve is for another schedule: {each}" for each in schedule_differences(curve.schedule, shape)]
    return found
