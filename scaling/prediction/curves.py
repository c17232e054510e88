"""The loss curves of the runs of a fit, as `fit.json` has them, and why there may be none.

Kept of each run is its mean training loss in each window of its tokens, over its final held-out loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.collapse import leaving
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.prediction.shape import Curves
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS, read_metrics
from foretrain.trainer.prediction.target import schedule_differences, schedule_shape
from foretrain.trainer.prediction.windows import EDGES, means_of


def recorded_curves(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """The curves of runs for `FitRecord`: `edges`, `schedule`, `ratios` of each run, and `leaving`, the runs that leave
    the common curve; or `refused`, with the reason."""
    if refused := _refused(runs):
        return {"refused": refused}
    mean_RK = np.array([_means(run) for run in runs])
    for run, mean_K in zip(runs, mean_RK, strict=True):
        if not np.isfinite(mean_K).all():
            return {"refused": f"{run.name}/{METRICS_FILE} lacks steps of a part of its curve"}
        if (mean_K <= 0).any():
            return {"refused": f"the training loss of {run.name} falls to 0, which has no logarithm"}
    ratio_RK = np.round(mean_RK / np.array([[run.loss] for run in runs]), 6)
    assert runs[0].schedule is not None and runs[0].num_tokens is not None
    return {
        "edges": EDGES.tolist(),
        "schedule": schedule_shape(runs[0].schedule, runs[0].num_tokens),
        "ratios": ratio_RK.tolist(),
        "leaving": [asdict(each) for each in leaving(_curves(runs, ratio_RK))],
    }


def curves_in(record: FitRecord) -> Curves:
    """The curves that a fit's file has."""
    log_loss_R = np.log([run["loss"] for run in record.runs])
    return Curves(
        np.log([run["C"] for run in record.runs]),
        log_loss_R,
        np.log(record.curves["ratios"]) + log_loss_R[:, None],
        tuple(run["name"] for run in record.runs),
    )


def left(curves: Mapping[str, Any]) -> set[str]:
    """The names of the runs that leave the common curve."""
    return {each["name"] for each in curves.get("leaving", ())}


def refusal(curves: Mapping[str, Any], schedule: Mapping[str, Any] | None) -> str:
    """Why there is no curve for a target with this schedule, in a sentence; "" if there is one."""
    if not curves:
        return "the fit was made by an older version, which recorded no curves: fit the runs again"
    if "refused" in curves:
        return str(curves["refused"])
    if schedule is None:
        return "numbers alone do not say which schedule the run has: give its config"
    if differing := schedule_differences(schedule, curves["schedule"]):
        return f"the target and the runs of the fit differ in their schedules ({', '.join(differing)})"
    return ""


def _refused(runs: Sequence[RunFacts]) -> str:
    """Why these runs have no common curve, without reading their metrics; "" if they may have one."""
    for run in runs:
        if run.metric != VAL_LOSS:
            return f"the fit is of {run.metric}, and a curve belongs to the loss: fit {VAL_LOSS} for one"
        if run.schedule is None or run.num_tokens is None or run.flops is None:
            return f"{run.name} comes from a table, which has no curves"
    if len({run.flops for run in runs}) < 2:
        return "all runs have one size, which does not show how the shape of a curve depends on it"
    shapes = [schedule_shape(run.schedule, run.num_tokens) for run in runs if run.schedule and run.num_tokens]
    for run, shape in zip(runs, shapes, strict=True):
        if differing := schedule_differences(shapes[0], shape):
            return f"{runs[0].name} and {run.name} differ in their schedules ({', '.join(differing)})"
    return ""


def _means(run: RunFacts) -> Floats:
    steps = [record for record in read_metrics(Path(run.name) / METRICS_FILE) if record["kind"] == "train"]
    num_steps = max(record["step"] for record in steps)
    return means_of(((step["step"], step["loss"]) for step in steps if "skipped" not in step), num_steps)


def _curves(runs: Sequence[RunFacts], ratio_RK: Floats) -> Curves:
    log_loss_R = np.log([run.loss for run in runs])
    names = tuple(run.name for run in runs)
    return Curves(np.log([run.flops for run in runs]), log_loss_R, np.log(ratio_RK) + log_loss_R[:, None], names)  # type: ignore[arg-type]
