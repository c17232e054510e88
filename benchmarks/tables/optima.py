"""Predict the best learning rate and batch of every size of a grid from the sizes with less compute.

    python -m benchmarks.tables.optima grid.csv --loss "smooth loss" --out benchmarks/results/optima.jsonl

The run nearest to the predicted settings, in their logarithms, is compared with the best run of the size. The lowest of
many losses with noise is below the true one, so an excess of some of the noise remains also at the true optimum.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from foretrain.scaling.laws.optima import fit_optima

app = typer.Typer(add_completion=False)
LEAST_SIZES = 4
"""A law of N and D needs three sizes, and one more."""


def excesses(
    size_RV: np.ndarray, setting_RH: np.ndarray, loss_R: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield each size that smaller ones predict, its predicted settings, and the excess of the nearest run."""
    compute_R = size_RV.prod(axis=1)
    for size_V in np.unique(size_RV, axis=0):
        is_target_R = (size_RV == size_V).all(axis=1)
        is_smaller_R = compute_R < (1.0 - 1e-6) * size_V.prod()
        if len(np.unique(size_RV[is_smaller_R], axis=0)) < LEAST_SIZES:
            continue
        try:
            law = fit_optima(size_RV[is_smaller_R], setting_RH[is_smaller_R], loss_R[is_smaller_R])
        except ValueError:
            continue
        best_H = law.at(size_V)
        distance_R = ((np.log(setting_RH[is_target_R]) - np.log(best_H)) ** 2).sum(axis=1)
        loss = loss_R[is_target_R][distance_R.argmin()]
        yield size_V, best_H, float(loss / loss_R[is_target_R].min() - 1.0)


def summary(found: Sequence[float]) -> dict[str, Any]:
    """How far the predicted settings are from the best ones, in loss."""
    return {
        "targets": len(found),
        "median_excess": float(np.median(found)),
        "mean_excess": float(np.mean(found)),
        "worst_excess": max(found),
        "within_0.1_percent": float(np.mean([each <= 0.001 for each in found])),
    }


@app.command()
def main(
    table: Annotated[Path, typer.Argument(help="Table with N, D, the settings, and the loss.")],
    settings: Annotated[str, typer.Option(help="Columns of the settings.")] = "lr,bs",
    loss: Annotated[str, typer.Option(metavar="COLUMN", help="Column with the loss.")] = "loss",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result to this .jsonl file.")] = None,
) -> None:
    """Print the predicted settings of each size, and how far they are from the best."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = settings.split(",")
    size_RV, setting_RH = (
        np.array([[float(row[name]) for name in each] for row in rows]) for each in (("N", "D"), names)
    )
    found = list(excesses(size_RV, setting_RH, np.array([float(row[loss]) for row in rows])))
    if not found:
        raise typer.BadParameter(f"{table} has no size that {LEAST_SIZES} smaller ones predict")
    for size_V, best_H, excess in found:
        best = ", ".join(f"{name} {value:.3g}" for name, value in zip(names, best_H, strict=True))
        typer.echo(f"N {size_V[0]:.3g}, D {size_V[1]:.3g}: {best}; {100 * excess:.2f} % above the best", err=True)
    line = json.dumps({"table": table.stem, "loss": loss, **summary([excess for *_, excess in found])})
    typer.echo(line)
    if out is not None:
        out.write_text(f"{line}\n", encoding="utf-8")


if __name__ == "__main__":
    app()
