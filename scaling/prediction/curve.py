"""From the shape of the runs' curves and a prediction of the final loss to the predicted curve, with its band. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from foretrain.scaling.laws.evidence import LEVELS
from foretrain.scaling.prediction.limits import BAND, FALSE_ALARM, enlarged, limits
from foretrain.scaling.prediction.shape import Curves, Shape, student
from foretrain.trainer.prediction.course import Noise, averages
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.windows import EDGES

SMALL_SAMPLE = 0.5
"""Limits are larger by this, over the degrees of freedom: the correlations too are those of few runs. By simulation of
ladders of 5 to 15 runs, of whose targets 0.2 to 2.6 % would exceed the limits without it."""
Bounds = Mapping[str, list[float]]


def predicted_curve(
    shape: Shape,
    curves: Curves,
    *,
    loss: float,
    intervals: Bounds,
    mean_intervals: Bounds,
    law_freedom: float,
    flops: float,
    num_tokens: float,
    schedule: dict[str, Any],
) -> PredictedCurve:
    """The curve of a run that ends at a predicted held-out loss, with a band for each of LEVELS.

    The band is that of the final loss and that of the shape, whose errors are independent. The noise of a seed is in
    one of them: in the curves, if the runs have replicates, and else in the final loss. `law_freedom`: degrees of
    freedom of the prediction of the final loss.
    """
    log_compute = float(np.log(flops))
    ratio_K = shape.trend.at(np.array([log_compute]))[0]
    std_K, freedom = shape.std(log_compute), shape.freedom(log_compute)
    law = mean_intervals if shape.seed_K is not None else intervals
    bounds = {}
    for level in LEVELS:
        low, high = law[f"{level:g}"]
        constant, rest = shape.noise.constant, 1.0 - shape.noise.constant
        own_K = std_K * np.sqrt(constant * student(freedom, level) ** 2 + rest * student(np.inf, level) ** 2)
        low_K = ratio_K - np.hypot(np.log(loss / low), own_K)
        high_K = ratio_K + np.hypot(np.log(high / loss), own_K)
        bounds[f"{level:g}"] = _rounded(loss * np.exp(np.stack([low_K, high_K], axis=1)))
    low, high = law[f"{BAND:g}"]
    noise = Noise(
        float(np.log(high / low)) / 2 / student(np.inf, BAND),
        std_K.tolist(),
        shape.noise.constant,
        shape.noise.slow,
        shape.noise.decay,
    )
    judged = enlarged(noise, freedom)
    factor = 1.0 + SMALL_SAMPLE / freedom
    found = {name: factor * limit for name, limit in limits(noise, freedom, law_freedom).items()}
    # Runs whose noise is another one than the model of it would exceed the limits more often.
    own = averages(judged.covariance(), curves.ratios - shape.trend.at(curves.log_compute_R))
    return PredictedCurve(
        edges=[float(edge) for edge in EDGES],
        tokens=[round(edge * num_tokens) for edge in EDGES[1:]],
        loss=_rounded(loss * np.exp(ratio_K)),
        bounds=bounds,
        noise={**vars(judged), "std": _rounded(np.array(judged.std))},
        limits={
            "level": max(found["level"], float(np.abs(own.level_BK).max())),
            "change": max(found["change"], float(np.abs(own.change_BK).max())),
        },
        false_alarm=FALSE_ALARM,
        schedule=schedule,
        final_ratio=float(np.exp(ratio_K[-1])),
        drift="linear" if shape.is_drifting else "none",
    )


def _rounded(values: np.ndarray) -> Any:
    """Values as plain lists, with as many digits as they can have."""
    return np.round(values, 7).tolist()
