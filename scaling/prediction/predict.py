"""From a fit and a config to `prediction.json`: the loss that is predicted for a run that has not started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from foretrain.scaling.laws.evidence import Evidence
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.intervals import Interval
from foretrain.scaling.prediction.curve import predicted_curve
from foretrain.scaling.prediction.curves import curves_in, left, refusal
from foretrain.scaling.prediction.fit import evidence_in, finite, runs_for
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.scaling.prediction.shape import shape_of
from foretrain.scaling.prediction.table import LEAST_SIZES_OF_BOTH, SAME, are_collinear

MOST_DIFFERENT_TOKENS_PER_PARAM = 1.25
"""The largest factor between the tokens per parameter of a target and those of the runs, if the law knows compute
alone."""


@dataclass(frozen=True)
class Target:
    """A run whose loss is predicted."""

    num_params: float | None
    """N, as the fit counts it."""
    num_tokens: float | None
    """D."""
    flops: float
    """C."""
    same: Mapping[str, Any]
    """What it shares with the runs of the fit, by the names of SAME; without what is not known."""
    settings: Mapping[str, Any]
    """What else identifies it, for people."""
    schedule: Mapping[str, Any] | None = None
    """The result of `schedule_shape`; None: it is not known."""

    @property
    def tokens_per_param(self) -> float | None:
        """D / N; None if it is not known."""
        return self.num_tokens / self.num_params if self.num_tokens and self.num_params else None

    def variables(self, names: tuple[str, ...]) -> Floats:
        """The variables of a law. Raises ValueError if the target lacks one."""
        known = {"N": self.num_params, "D": self.num_tokens, "C": self.flops}
        missing = [name for name in names if known[name] is None]
        if missing:
            raise ValueError(f"the law needs {' and '.join(missing)} of the target")
        return np.array([known[name] for name in names], dtype=float)


def predict(record: FitRecord, seal: str, target: Target, code: str = "") -> PredictionRecord:
    """The sealed prediction for a target. `seal`: of the fit's file.

    Raises ValueError with every reason why the fit does not support it, each with what to do.
    """
    runs = runs_for(record, target.tokens_per_param)
    evidence = evidence_in(record.law, runs)
    _refuse(objections(record, evidence, target))
    x_V = target.variables(evidence.fit.form.variables)
    found = evidence.predict(x_V)
    _refuse(evidence.too_wide(found))
    intervals, mean_intervals = _bounds(found.intervals), _bounds(found.mean_intervals)
    return PredictionRecord(
        target={"N": target.num_params, "D": target.num_tokens, "C": target.flops, **target.same, **target.settings},
        metric=record.metric,
        problems_sha256=record.problems_sha256,
        loss=found.loss,
        intervals=intervals,
        mean_intervals=mean_intervals,
        if_right={f"{each.level:g}": [finite(each.low), finite(each.high)] for each in evidence.if_right(x_V)},
        ratio=target.flops / evidence.compute_range[1],
        fit={
            "seal": seal,
            "law": record.law,
            "parameters": evidence.fit.values,
            "runs": [{name: run[name] for name in ("name", "loss", "C", "sha256")} for run in runs],
            "run_std": finite(evidence.run_std),
        },
        baselines=baselines(record, target),
        curve=curve_of(record, target, evidence.freedom, found.loss, intervals, mean_intervals),
        code=code,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def curve_of(
    record: FitRecord,
    target: Target,
    law_freedom: float,
    loss: float,
    intervals: Mapping[str, list[float]],
    mean_intervals: Mapping[str, list[float]],
) -> dict[str, Any]:
    """The predicted curve for `PredictionRecord`; `refused`, with the reason, if the fit does not support one."""
    if refused := refusal(record.curves, target.schedule):
        return {"refused": refused}
    curves = curves_in(record)
    sound = [number for number, run in enumerate(record.runs) if run["name"] not in left(record.curves)]
    return predicted_curve(
        shape_of(curves),
        curves.only(sound),
        loss=loss,
        intervals=intervals,
        mean_intervals=mean_intervals,
        law_freedom=law_freedom,
        flops=target.flops,
        num_tokens=target.num_tokens or 0.0,
        schedule=record.curves["schedule"],
    ).to_dict()


def objections(record: FitRecord, evidence: Evidence, target: Target) -> list[str]:
    """Why the fit does not support a prediction for the target, each with what to do; empty if it does."""
    found = evidence.objections(target.flops)
    for field, value in target.same.items():
        expected = record.same.get(field)
        if expected is not None and value != expected:
            found.append(
                f"the target's {field} ({value}) is not that of the runs ({expected}): fit runs that share its "
                f"{SAME[field]}, or change the config"
            )
    if evidence.fit.form.variables == ("C",) and target.tokens_per_param is not None:
        known = [(run["N"], run["D"]) for run in record.runs if run.get("N") and run.get("D")]
        found.extend(other_tokens_per_param(known, target.tokens_per_param))
    return found


def _refuse(reasons: list[str]) -> None:
    """Raise ValueError if there is a reason against a prediction."""
    if reasons:
        lines = "\n".join(f"- {reason}" for reason in reasons)
        raise ValueError(f"the runs of the fit do not support this prediction:\n{lines}")


def baselines(record: FitRecord, target: Target) -> dict[str, float]:
    """The losses that rules without care predict for a target."""
    compute_R, loss_R = np.array([[run["C"], run["loss"]] for run in record.runs]).T
    return baselines_of(compute_R, loss_R, target.flops)


def baselines_of(compute_R: Floats, loss_R: Floats, flops: float) -> dict[str, float]:
    """The losses that rules without care predict: that of the largest run, and a power law of compute alone."""
    found = {"largest_run": float(loss_R[np.argmax(compute_R)])}
    if len(np.unique(compute_R)) >= len(FORMS.get("compute_no_e").parameters):
        slope, constant = np.polyfit(np.log(compute_R), np.log(loss_R), 1)
        found["power_law"] = float(np.exp(constant + slope * np.log(flops)))
    return found


def other_tokens_per_param(known: Sequence[tuple[float, float]], wanted: float) -> list[str]:
    """The objections of a law of compute to a target that is trained for longer or shorter than the runs, for its size.

    `known`: N and D of the runs; nothing is said if they are not known.
    """
    if not known:
        return []
    sizes_RV = np.array(known)
    ratio_R = sizes_RV[:, 1] / sizes_RV[:, 0]
    low, high = float(ratio_R.min()), float(ratio_R.max())
    factor = MOST_DIFFERENT_TOKENS_PER_PARAM
    found = []
    if not low / factor <= wanted <= high * factor:
        found.append(
            f"the target has {wanted:.3g} tokens per parameter, and the runs have {low:.3g} to {high:.3g}, which a law "
            "of compute does not know: change train.num_tokens, or fit runs with several numbers of tokens per "
            "parameter"
        )
    if high / low > factor**2 and not are_collinear(sizes_RV):
        found.append(
            f"the runs have {low:.3g} to {high:.3g} tokens per parameter, and N and D do not grow together: compute "
            "does not say which of them the target has more of. Fit runs that share their tokens per parameter, or "
            f"{LEAST_SIZES_OF_BOTH} sizes or more, in which both vary"
        )
    return found


def _bounds(intervals: tuple[Interval, ...]) -> dict[str, list[float]]:
    return {f"{each.level:g}": [each.low, each.high] for each in intervals}
