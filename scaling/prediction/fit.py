"""From runs to `fit.json`."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from foretrain.scaling.laws.backtest import RATIOS, BackTest
from foretrain.scaling.laws.evidence import LEVELS, UNTESTED_DISTANCE, Evidence
from foretrain.scaling.laws.forms import FORMS
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.prediction.table import SAME, RunTable, value_of


def evidence_of(table: RunTable) -> Evidence:
    """The law that is fitted to the runs of a table. Raises ValueError if they cannot determine it."""
    return Evidence.of(table.form, table.variables, table.losses, table.compute)


def evidence_in(record: FitRecord) -> Evidence:
    """The evidence that a fit's file has: the same law, from the same runs."""
    form = FORMS.get(record.law)
    x_RV = np.array([[run[name] for name in form.variables] for run in record.runs], dtype=float)
    loss_R, compute_R = (np.array([run[name] for run in record.runs], dtype=float) for name in ("loss", "C"))
    return Evidence.of(form, x_RV, loss_R, compute_R)


def fit_record(table: RunTable, evidence: Evidence, code: str = "") -> FitRecord:
    """The file of a fit."""
    low, high = evidence.compute_range
    distance = max(UNTESTED_DISTANCE, evidence.backtest.largest_distance)
    return FitRecord(
        law=table.form.name,
        formula=table.form.formula,
        embeddings=table.embeddings,
        runs=[_run(table, number) for number in range(len(table.runs))],
        same={field: value for field in SAME if (value := getattr(table.runs[0], field))},
        parameters={name: _parameter(evidence, name) for name in table.form.parameters},
        unidentified=list(evidence.unidentified()),
        objective=evidence.fit.objective,
        delta=evidence.fit.delta,
        run_std=finite(evidence.run_std),
        noise_freedom=evidence.noise.freedom,
        misfit=evidence.misfit,
        backtest=backtest_rows(evidence.backtest),
        widening=evidence.backtest.widening,
        reach=(high / low) ** distance,
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


def _parameter(evidence: Evidence, name: str) -> dict[str, Any]:
    intervals = {f"{level:g}": evidence.parameter(name, level) for level in LEVELS}
    bounds = {level: [finite(interval.low), finite(interval.high)] for level, interval in intervals.items()}
    return {"value": evidence.fit.values[name], "intervals": bounds}


def _run(table: RunTable, number: int) -> dict[str, Any]:
    run = table.runs[number]
    sizes = {}
    for name in ("N", "D", "C"):
        try:
            sizes[name] = value_of(run, name, table.embeddings)
        except ValueError:  # a table that has compute alone
            continue
    return {"name": run.name, "loss": run.loss, "loss_error": run.loss_error, "seed": run.seed, **sizes}
