"""The predictions of the runs of a table from smaller ones, and how they did."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from foretrain.scaling.laws.evidence import LEVELS, Evidence
from foretrain.scaling.laws.fit import fit
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.fit import similar
from foretrain.scaling.prediction.predict import baselines_of, other_tokens_per_param
from foretrain.scaling.prediction.table import RunTable, table_of, value_of


@dataclass(frozen=True)
class Predicted:
    """One run, and what was predicted for it."""

    ratio: float
    """Compute of the run over that of the largest run that was used."""
    num_runs: int
    refused: str = ""
    """Why the tool refuses the prediction; the other values are then not known."""
    error: float = 0.0
    """Predicted loss over the measured one, minus 1."""
    width: float = 0.0
    """Width of the interval at 90 %, over the prediction."""
    inside: tuple[bool, ...] = ()
    """Whether the loss is inside of the interval, for each of LEVELS."""
    baseline_errors: tuple[tuple[str, float], ...] = ()
    residual: float | None = None
    """The error of a law that is fitted to all runs of the table, this one included: what is left is noise, and what no
    law of this form explains. None: the table has too few runs for that."""


def predictions(
    runs: Sequence[RunFacts], least: float, *, lowest: bool, on_target: Callable[[], None] = lambda: None
) -> Iterator[Predicted]:
    """Yield the prediction of each run for which there are runs with at most 1/least of its compute."""
    everything = table_of(runs, lowest=lowest)
    residuals = _residuals(everything)
    for place, compute in enumerate(everything.compute):
        smaller = [
            run for run, other in zip(everything.runs, everything.compute, strict=True) if other <= compute / least
        ]
        if len(smaller) >= 2:
            yield replace(_predicted(smaller, everything, place), residual=residuals[place])
        on_target()


def _predicted(smaller: Sequence[RunFacts], everything: RunTable, place: int) -> Predicted:
    compute, loss = float(everything.compute[place]), float(everything.losses[place])
    table = table_of(smaller)
    ratio = compute / float(table.compute.max())
    target = RunTable(table.form, (everything.runs[place],), everything.embeddings)
    try:
        tokens_per_param = _tokens_per_param(everything.runs[place], everything.embeddings)
        used_R = similar(table.form, table.variables, tokens_per_param)
        evidence = Evidence.of(table.form, table.variables[used_R], table.losses[used_R], table.compute[used_R])
    except ValueError as error:
        return Predicted(ratio, len(smaller), str(error))
    reasons = evidence.objections(compute)
    if table.form.variables == ("C",) and tokens_per_param is not None:
        known = [(value_of(run, "N", table.embeddings), value_of(run, "D", table.embeddings)) for run in table.runs]
        reasons += other_tokens_per_param(known, tokens_per_param)
    found = evidence.predict(target.variables[0])
    reasons += evidence.too_wide(found)
    if reasons:
        return Predicted(ratio, len(smaller), reasons[0])
    intervals = [found.interval(level) for level in LEVELS]
    return Predicted(
        ratio,
        int(used_R.sum()),
        error=found.loss / loss - 1.0,
        width=(intervals[1].high - intervals[1].low) / found.loss,
        inside=tuple(loss in interval for interval in intervals),
        baseline_errors=tuple(
            (name, value / loss - 1.0) for name, value in baselines_of(table.compute, table.losses, compute).items()
        ),
    )


def _residuals(everything: RunTable) -> list[float | None]:
    """The error of the law of all runs for each of them."""
    try:
        found = fit(everything.form, everything.variables, everything.losses)
    except ValueError:
        return [None] * len(everything.runs)
    errors: list[float | None] = (found.loss(everything.variables) / everything.losses - 1.0).tolist()
    return errors


def _tokens_per_param(run: RunFacts, embeddings: bool) -> float | None:
    """D / N of a run; None if the table does not say it."""
    try:
        return value_of(run, "D", embeddings) / value_of(run, "N", embeddings)
    except ValueError:
        return None


def summary(found: Sequence[Predicted]) -> dict[str, Any]:
    """How the predictions did, for a line of the results."""
    made = [each for each in found if not each.refused]
    result: dict[str, Any] = {"targets": len(found), "refused": len(found) - len(made), "predicted": len(made)}
    if not made:
        return result
    errors = np.array([each.error for each in made])
    names = dict(made[0].baseline_errors)
    residuals = [each.residual for each in made if each.residual is not None]
    return {
        **result,
        "median_error": float(np.median(np.abs(errors))),
        "p90_error": float(np.quantile(np.abs(errors), 0.9)),
        "mean_signed_error": float(errors.mean()),
        "mean_width": fmean(each.width for each in made),
        "median_width": median(each.width for each in made),
        **{f"inside_{level:g}": fmean(each.inside[number] for each in made) for number, level in enumerate(LEVELS)},
        "median_ratio": median(each.ratio for each in made),
        **({"median_residual": median(map(abs, residuals))} if residuals else {}),
        **{f"median_error_of_{name}": median(abs(dict(each.baseline_errors)[name]) for each in made) for name in names},
    }
