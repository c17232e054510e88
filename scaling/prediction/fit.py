"""From runs to `fit.json`."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from foretrain.scaling.laws.backtest import RATIOS, BackTest
from foretrain.scaling.laws.bootstrap import Bootstrap, bootstrap
from foretrain.scaling.laws.evidence import LEVELS, Evidence
from foretrain.scaling.laws.fit import check_runs
from foretrain.scaling.laws.forms import FORMS, Floats, Form
from foretrain.scaling.laws.intervals import Interval
from foretrain.scaling.prediction.curves import recorded_curves
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.prediction.table import SAME, RunTable, value_of

SIMILAR = 20.0
"""A law of N and D that holds for usual numbers of tokens per parameter does not hold for extreme ones: runs are left
out whose number is that many times a target's, or a target's theirs."""
LEAST_SPARE = 2
"""Runs are left out if those that stay have that many sizes for each parameter of the law."""


def evidence_of(table: RunTable) -> Evidence:
    """The law that is fitted to the runs of a table. Raises ValueError if they cannot determine it."""
    return Evidence.of(table.form, table.variables, table.losses, table.compute)


def runs_for(record: FitRecord, tokens_per_param: float | None) -> list[dict[str, Any]]:
    """The runs of a fit that are used for a target with as many tokens per parameter; see `similar`."""
    form = FORMS.get(record.law)
    is_used_R = similar(form, _columns(record.runs, form.variables), tokens_per_param)
    return [run for run, is_used in zip(record.runs, is_used_R, strict=True) if is_used]


def evidence_in(law: str, runs: Sequence[Mapping[str, Any]]) -> Evidence:
    """The evidence that runs of a fit's file give for its law."""
    form = FORMS.get(law)
    loss_R, compute_R = _columns(runs, ("loss", "C")).T
    return Evidence.of(form, _columns(runs, form.variables), loss_R, compute_R)


def _columns(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Floats:
    return np.array([[run[name] for name in names] for run in runs], dtype=float)


def similar(form: Form, x_RV: Floats, tokens_per_param: float | None) -> Floats:
    """Which runs have tokens per parameter within a factor of SIMILAR of a target's, as a mask (R).

    All of them for a law of compute, and if the others could not determine the law.
    """
    is_used_R = np.ones(len(x_RV), dtype=bool)
    if tokens_per_param is None or not {"N", "D"} <= {*form.variables}:
        return is_used_R
    log_R = np.log(x_RV[:, form.variables.index("D")] / x_RV[:, form.variables.index("N")] / tokens_per_param)
    is_similar_R = np.abs(log_R) <= np.log(SIMILAR)
    try:
        check_runs(form, x_RV[is_similar_R], np.ones(int(is_similar_R.sum())))
    except ValueError:
        return is_used_R
    num_sizes = len(np.unique(x_RV[is_similar_R], axis=0))
    return is_similar_R if num_sizes >= LEAST_SPARE * len(form.parameters) else is_used_R


def fit_record(table: RunTable, evidence: Evidence, code: str = "") -> FitRecord:
    """The file of a fit."""
    resampled = bootstrap(evidence.fit)
    parameters = {name: _parameter(evidence, resampled, name) for name in table.form.parameters}
    return FitRecord(
        metric=table.metric,
        problems_sha256=next((run.problems_sha256 for run in table.runs if run.problems_sha256), ""),
        law=table.form.name,
        formula=table.form.formula,
        embeddings=table.embeddings,
        runs=[_run(table, number) for number in range(len(table.runs))],
        same=_shared(table),
        parameters=parameters,
        unidentified=[name for name, found in parameters.items() if _is_open(*found["intervals"][f"{LEVELS[-1]:g}"])],
        objective=evidence.fit.objective,
        delta=evidence.fit.delta,
        run_std=finite(evidence.run_std),
        noise_freedom=evidence.noise.freedom,
        misfit=evidence.misfit,
        backtest=backtest_rows(evidence.backtest),
        widening=evidence.backtest.widening,
        reach=evidence.reach,
        curves=recorded_curves(table.runs),
        code=code,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def backtest_rows(test: BackTest) -> list[dict[str, Any]]:
    """The cases of a back-test by their extrapolation, without ranges that have none."""
    rows = []
    for low, high in zip(RATIOS, (*RATIOS[1:], math.inf), strict=True):
        part = test.between(low, high)
        if part.cases:
            rows.append(
                {
                    "from_ratio": low,
                    "cases": len(part.cases),
                    "fits": part.num_cuts,
                    "median_error": part.median_error,
                    "worst_error": part.worst_error,
                    **{f"inside_{level:g}": part.coverage(level) for level in LEVELS},
                }
            )
    return rows


def finite(value: float) -> float | None:
    """A number for a JSON file, which has no infinity."""
    return value if math.isfinite(value) else None


def _parameter(evidence: Evidence, resampled: Bootstrap | None, name: str) -> dict[str, Any]:
    """Value and intervals of a parameter: `intervals` from profile likelihoods, `bootstrap` from resampled runs."""

    def bounds(interval_of: Callable[[str, float], Interval]) -> dict[str, list[float | None]]:
        found = {f"{level:g}": interval_of(name, level) for level in LEVELS}
        return {level: [finite(interval.low), finite(interval.high)] for level, interval in found.items()}

    return {
        "value": evidence.fit.values[name],
        "intervals": bounds(evidence.parameter),
        "bootstrap": bounds(resampled.parameter) if resampled else None,
    }


def _is_open(low: float | None, high: float | None) -> bool:
    """Whether the runs leave one side of an interval of a parameter, which is positive, open."""
    return not low or high is None


def _shared(table: RunTable) -> dict[str, Any]:
    """What the runs share, as any of them knows it: rows of a table know less than run folders."""
    known = {field: [value for run in table.runs if (value := getattr(run, field))] for field in SAME}
    return {field: values[0] for field, values in known.items() if values}


def _run(table: RunTable, number: int) -> dict[str, Any]:
    run = table.runs[number]
    sizes = {}
    for name in ("N", "D", "C"):
        try:
            sizes[name] = value_of(run, name, table.embeddings)
        except ValueError:  # a table that has compute alone
            continue
    return {
        "name": run.name,
        "loss": run.loss,
        "loss_error": run.loss_error,
        "seed": run.seed,
        **sizes,
        "sha256": run.metrics_sha256,
    }
