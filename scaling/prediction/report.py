"""Prints fits, predictions, scores and tallies."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from foretrain.scaling.laws.evidence import LEVELS
from foretrain.scaling.laws.metric import task_of
from foretrain.scaling.laws.noise import SIGNIFICANCE
from foretrain.scaling.prediction.limits import FALSE_ALARM
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.scaling.prediction.score import Score
from foretrain.scaling.prediction.tally import Row
from foretrain.trainer.metrics import VAL_LOSS
from foretrain.trainer.prediction.curve import PredictedCurve

SHOWN = 0.9
"""The level of the intervals from resampled runs that are printed beside the others."""


def print_fit(record: FitRecord, console: Console) -> None:
    """Print the law, its parameters with intervals, its noise, its back-test, and what is wrong with the curves."""
    compute = [run["C"] for run in record.runs]
    num_sizes = len({(run.get("N"), run.get("D"), run["C"]) for run in record.runs})
    what = "" if record.metric == VAL_LOSS else f"{record.metric} in place of the loss L; "
    _say(console, f"{what}{record.formula}: {len(record.runs)} runs of {num_sizes} sizes, {_flops(compute)} FLOPs")
    intervals = (f"{100 * level:g} % interval" for level in LEVELS)
    table = _table("parameter", "value", *intervals, f"{100 * SHOWN:g} %, resampled")
    for name, found in record.parameters.items():
        profiled = (_interval(each) for each in found["intervals"].values())
        resampled = (found.get("bootstrap") or {}).get(f"{SHOWN:g}")
        table.add_row(name, f"{found['value']:.5g}", *profiled, _interval(resampled) if resampled else "")
    console.print(table)
    for name in record.unidentified:
        _say(console, f"{name} is not identified: the runs do not bound it on both sides (95 % interval)")
    _say(console, _noise(record))
    _print_backtest(record, console)
    _print_curves(record, console)


def _print_backtest(record: FitRecord, console: Console) -> None:
    if not record.backtest:
        _say(console, "back-test: none, since too few sizes are larger than those that a law needs")
        return
    table = _table(
        "from ratio", "cases", "fits", "median error", "worst", *(f"in {100 * level:g} %" for level in LEVELS)
    )
    for row in record.backtest:
        inside = (f"{row[f'inside_{level:g}']:.0%}" for level in LEVELS)
        numbers = (f"{100 * row[name]:.2f} %" for name in ("median_error", "worst_error"))
        table.add_row(f"{row['from_ratio']}x", str(row["cases"]), str(row["fits"]), *numbers, *inside)
    console.print(table)
    _say(
        console,
        f"the law is wrong: the back-test's errors are {record.widening:.2f} times as large as it foresees, which "
        "predictions allow for"
        if record.widening > 1.0
        else "the back-test's errors are no larger than its intervals say",
    )


def _print_curves(record: FitRecord, console: Console) -> None:
    """Print whether the loss curves have one shape, and which runs leave it."""
    if "refused" in record.curves:
        _say(console, f"loss curves: not compared, since {record.curves['refused']}")
        return
    for run in record.curves["leaving"]:
        where = f"from {100 * run['start']:.0f} % of its tokens on" if run["start"] else "from its start on"
        by = f"{100 * run['change']:+.1f} %, {run['excess']:.1f} times the limit"
        _say(
            console,
            f"WARNING: {run['name']} leaves the common curve {where} ({by}): look for what differs in it, such as its "
            "learning rate or its data, before you trust the fit",
        )
    count = len(record.runs) - len(record.curves["leaving"])
    _say(
        console,
        f"loss curves: {count} of {len(record.runs)} runs have one shape (a run leaves it in {100 * FALSE_ALARM:g} % "
        "of sound fits)",
    )


def print_prediction(record: PredictionRecord, console: Console) -> None:
    """Print the predicted loss, its intervals, and how far it extrapolates."""
    low, high = record.intervals["0.9"]
    size = f"{record.target['C']:.3g} FLOPs, {record.ratio:.3g} times the largest run"
    what = "loss" if record.metric == VAL_LOSS else record.metric
    _say(console, f"predicted {what} {record.loss:.4f}, at {size}")
    table = _table("interval", "one run", "mean of many runs", "one run, if the law is exact")
    for level, interval in record.intervals.items():
        mean, exact = record.mean_intervals[level], record.if_right.get(level, [None, None])
        table.add_row(f"{100 * float(level):g} %", _interval(interval), _interval(mean), _interval(exact))
    console.print(table)
    _say(console, f"width of the 90 % interval: {100 * (high - low) / record.loss:.2f} % of the {what}")
    for name, loss in record.baselines.items():
        _say(console, f"{_BASELINES[name]}: {loss:.4f}")
    _say(console, _curve(record))
    if task_of(record.metric):
        _say(
            console, "a task may be learned within a small range of compute, which a law of smaller runs does not show"
        )


def print_score(record: PredictionRecord, found: Score, console: Console) -> None:
    """Print how a prediction did."""
    off = f"{100 * found.error:+.2f} % ({record.ratio:.3g}x)"
    what = "" if record.metric == VAL_LOSS else f"{record.metric}: "
    _say(console, f"{what}predicted {record.loss:.4f}, measured {found.measured:.4f}: {off}")
    for level, is_inside in found.inside.items():
        _say(console, f"{'inside' if is_inside else 'outside'} of the {100 * float(level):g} % interval")
    for name, error in found.baseline_errors.items():
        _say(console, f"{_BASELINES[name]}: {100 * error:+.2f} %")
    for problem in found.problems:
        _say(console, f"does not count: {problem}")


def print_tally(rows: Sequence[Row], console: Console, metric: str = "") -> None:
    """Print how the predictions did, by how far they extrapolate. `metric`: what they predict; "": not said."""
    if metric:
        _say(console, f"{metric}:")
    levels = list(dict.fromkeys(level for row in rows for level in row.inside))
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    table = _table(
        "ratio",
        "predictions",
        *(f"in {100 * float(level):g} %" for level in levels),
        "median error",
        "worst",
        "mean width (90 %)",
        *(_BASELINES[name] for name in names),
    )
    for row in rows:
        high = "" if math.isinf(row.high) else f" to {row.high:g}x"
        table.add_row(
            f"{row.low:g}x{high or ' or more'}",
            str(row.count),
            *(f"{row.inside.get(level, 0)} of {row.count}" for level in levels),
            *(f"{100 * value:.2f} %" for value in (row.median_error, row.worst_error, row.mean_width)),
            *(f"{100 * row.baselines[name]:.2f} %" if name in row.baselines else "" for name in names),
        )
    console.print(table)


_BASELINES = {"largest_run": "value of the largest run", "power_law": "power law without a constant"}


def _curve(record: PredictionRecord) -> str:
    """What is said of the predicted curve."""
    if "refused" in record.curve:
        return f"loss curve: none, since {record.curve['refused']}"
    curve = PredictedCurve.of(record.curve)
    widths = [np.log(high / low) for low, high in curve.bounds["0.9"]]
    drift = ", with a drift over compute that the runs show" if curve.drift != "none" else ""
    return (
        f"loss curve: the shape of the runs' curves{drift}; its 90 % band is {100 * min(widths):.2g} to "
        f"{100 * max(widths):.2g} % wide (train.prediction=FILE compares the run with it)"
    )


def _noise(record: FitRecord) -> str:
    """What is known of the noise of a run."""
    if record.run_std is None:
        return "noise: not known, since the law goes through as many sizes as it has parameters"
    source = f"{record.noise_freedom} replicates" if record.noise_freedom else "the runs' distances from the law"
    words = f"noise of one run: {100 * record.run_std:.2f} % of its loss (from {source})"
    if record.misfit is None:
        return words
    if record.misfit < SIGNIFICANCE:
        return (
            f"{words}; the law is misspecified: noise alone would be as far from it with a probability of "
            f"{record.misfit:.2g}, so each size counts as one run"
        )
    return f"{words}; the law fits within the noise (probability {record.misfit:.2f})"


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return f"{_number(low, '-inf')} to {_number(high, 'inf')}"


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.5g}"


def _flops(compute: Sequence[float]) -> str:
    return f"{min(compute):.3g} to {max(compute):.3g}"


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
