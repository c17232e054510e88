"""What the alarms say of one run, as a part of its line of the results. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.alarms.plan import first_step
from foretrain.scaling.prediction.collapse import leaving
from foretrain.scaling.prediction.shape import Curves
from foretrain.trainer.metrics import VAL_LOSS
from foretrain.trainer.prediction.course import Noise, averages
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.windows import Floats, means_of

TESTS = ("level", "change")
"""The two averages that are compared with limits: see trainer/prediction/course.py."""


def of_run(records: Sequence[Mapping[str, Any]], curve: PredictedCurve | None) -> dict[str, Any]:
    """The end of a run, its window means, and what the warning of `train.prediction` said, from its metrics.

    `curve`: the one that it was compared with; None: there was none.
    """
    steps = [record for record in records if record["kind"] == "train"]
    num_steps = steps[-1]["step"]
    mean_K = means_of(((step["step"], step["loss"]) for step in steps if "skipped" not in step), num_steps)
    found: dict[str, Any] = {
        "num_steps": num_steps,
        "first_step": first_step(num_steps),
        "val_loss": [record for record in records if record["kind"] == "eval"][-1][VAL_LOSS],
        "means": np.round(mean_K, 5).tolist(),
    }
    if curve is not None:
        left = [record["step"] for record in records if record["kind"] == "left_prediction"]
        found["reported_step"] = left[0] if left else None
        found["excesses"] = {
            name: round(float(each.max()), 3) for name, each in excesses_by_test(curve, mean_K).items()
        }
    return found


def excesses_by_test(curve: PredictedCurve, mean_K: Floats) -> dict[str, Floats]:
    """Each average over its limit (K), for a run all of whose windows have a mean."""
    off_BK = np.log(mean_K / np.array(curve.loss))[None]
    found = averages(Noise(**curve.noise).covariance(), off_BK)
    return {
        name: np.abs(value_BK[0]) / curve.limits[name]
        for name, value_BK in zip(TESTS, (found.level_BK, found.change_BK), strict=True)
    }


def named(setup: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Which runs `foretrain fit` names as leaving the common curve, if a run is among the proxies.

    `setup`, `line`: the first line of the results, and that of the run. A target is one more run, and a proxy replaces
    the first seed of the largest rung.
    """
    proxies = list(setup["proxies"])
    if line["size"] == "proxy":
        largest = max(each["C"] for each in proxies)
        proxies.remove(next(each for each in proxies if each["C"] == largest))
    ratio_K = np.round(np.array(line["means"]) / line["val_loss"], 6)
    runs = [*proxies, {"name": line["run"], "C": line["C"], "loss": line["val_loss"], "ratios": ratio_K.tolist()}]
    log_loss_R = np.log([each["loss"] for each in runs])
    log_mean_RK = np.log([each["ratios"] for each in runs]) + log_loss_R[:, None]
    names = tuple(each["name"] for each in runs)
    curves = Curves(np.log([each["C"] for each in runs]), log_loss_R, log_mean_RK, names)
    found = {each.name: each for each in leaving(curves)}
    mine = found.pop(line["run"], None)
    return {
        "is_named": mine is not None,
        "start": mine.start if mine else None,
        "change": round(mine.change, 5) if mine else None,
        "others_named": list(found),
    }
