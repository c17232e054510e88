"""The errors of laws on published curves as records, as a table, and whether the bar holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.curves.published import DECAY_FROM, FITTED, STABLE_DECAY
from benchmarks.document import in_document as placed
from foretrain.scaling.laws.curves.fit import Curve
from foretrain.scaling.laws.curves.schedule import Floats

MEAN_BAR, WORST_BAR = 0.003, 0.015
"""Greatest mean and worst errors of a predicted warm-up-stable-decay run."""
LONG = "cosine_72000"
"""A run of three times the steps, whose errors show how far a fit to short runs reaches."""
BEGIN, END = "<!-- python -m benchmarks.curves writes this table -->", "<!-- end of the table -->"


def errors(predicted_N: Floats, curve: Curve) -> dict[str, float]:
    """The mean and the greatest absolute error of the losses of a curve, relative to the losses; all are after warm-up.

    For a warm-up-stable-decay run also those of the steps in which it decays.
    """
    error_N = np.abs(predicted_N / curve.loss_N - 1.0)
    found = {"mean": error_N.mean(), "worst": error_N.max()}
    if curve.name.startswith(STABLE_DECAY):
        decays = error_N[curve.step_N >= DECAY_FROM]
        found |= {"decay_mean": decays.mean(), "decay_worst": decays.max()}
    return {name: round(float(value), 6) for name, value in found.items()}


def holds(record: dict[str, Any]) -> bool:
    """Whether both warm-up-stable-decay runs are predicted within the bar."""
    runs = [record["errors"][name] for name in STABLE_DECAY]
    return all(each["mean"] <= MEAN_BAR and each["worst"] <= WORST_BAR for each in runs)


def table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of mean and worst errors in percent, with a row for each size and fit.

    Of the two warm-up-stable-decay runs it has the greater errors.
    """
    lines = [
        f"| model | fitted runs | multi-power law | in the decay | {LONG} | momentum law | in the decay | {LONG} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    laws = {(each["size"], each["fitted"], each["law"]): each["errors"] for each in records}
    for size, fitted in dict.fromkeys((size, fitted) for size, fitted, _ in laws):
        cells = [size, fitted]
        for law in ("multi_power", "momentum"):
            found = laws[size, fitted, law]
            runs = [found[name] for name in STABLE_DECAY]
            cells += [_cell(runs, "mean", "worst"), _cell(runs, "decay_mean", "decay_worst")]
            cells.append("fitted" if LONG in FITTED[fitted] else _cell([found[LONG]], "mean", "worst"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(runs: Sequence[dict[str, float]], mean: str, worst: str) -> str:
    return f"{100 * max(run[mean] for run in runs):.2f}, {100 * max(run[worst] for run in runs):.2f}"


def in_document(text: str, records: Sequence[dict[str, Any]]) -> str:
    """The document with the table between its two marks. Raises ValueError if a mark is missing."""
    return placed(text, BEGIN, table(records), END)
