"""Prints the tables of optima and drifts of a transfer, and the objections."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from foretrain.progress import print_line
from foretrain.scaling.transfer.evidence import MAX_RANGE, MAX_SLOPE
from foretrain.scaling.transfer.optimum import format_rate
from foretrain.scaling.transfer.study import Drift, Fit, Study
from foretrain.scaling.transfer.transfer import SOURCES


def print_study(study: Study, console: Console) -> None:
    """Print the best learning rate of each proxy, and how it drifts."""
    table = Table("d_model", "layers", "parameters", "best lr", "log2 lr", "±", "loss", "", box=None)
    for column in table.columns[:-1]:
        column.justify = "right"
        column.no_wrap = True
    for fit in study.fits:
        table.add_row(str(fit.size.d_model), str(fit.size.num_layers), f"{fit.num_params:,}", *_found(fit))
    console.print(table)
    if others := study.largest.best_others:
        settings = ", ".join(f"{key} = {value}" for key, value in others.items())
        console.print(f"all with {settings}: the best at {study.largest.size}", highlight=False, markup=False)
    if not study.drifts:
        return
    table = Table("over", "drift (octaves per doubling)", "range (octaves)", "regret (nats)", box=None)
    for drift in study.drifts:
        table.add_row(*_drift(drift))
    console.print(table)
    console.print(
        "± holds in about two of three repeats. Regret: what the largest model loses at the smallest one's rate.",
        style="dim",
    )


def print_objections(objections: Sequence[str], console: Console) -> None:
    """Print why the evidence does not support a transfer, a line for each reason."""
    if objections:
        console.print(
            "[bold red]not supported:[/] the best values are not known to hold for the target", soft_wrap=True
        )
    for objection in objections:
        print_line(f"- {objection}", console=console, style="red")


def _found(fit: Fit) -> tuple[str, str, str, str, str]:
    if fit.optimum is not None:
        optimum, (num_rates, num_seeds) = fit.optimum, fit.losses_RS.shape
        why = SOURCES[optimum.source] if num_seeds < 2 else f"{num_rates} rates, {num_seeds} seeds"
        numbers = f"{optimum.log2_lr:.2f}", f"{optimum.uncertainty:.2f}", f"{optimum.loss:.4f}"
        return f"{2**optimum.log2_lr:.3g}", *numbers, why
    if math.isnan(fit.best_log2_lr):
        return "none", "", "", "", f"[red]{fit.problem}[/]"
    return format_rate(fit.best_log2_lr), "", "", f"{np.nanmin(fit.means):.4f}", f"[red]{fit.problem}[/]"


def _drift(drift: Drift) -> tuple[str, str, str, str]:
    color = "green" if abs(drift.slope) <= MAX_SLOPE else "bold red"
    slope = f"[{color}]{drift.slope:+.3f}[/] ± {drift.uncertainty:.3f}"
    color = "green" if drift.range <= MAX_RANGE else "bold red"
    regret = "not swept there" if math.isnan(drift.regret) else f"{drift.regret:.4f}"
    return str(drift), slope, f"[{color}]{drift.range:.3f}[/]", regret
