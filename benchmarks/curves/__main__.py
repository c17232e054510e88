"""Fit laws of curves to published runs, and predict those with another schedule.

    python -m benchmarks.curves --out benchmarks/results/curves.json --document docs/prediction.md

The multi-power law and, for comparison, the momentum law are fitted to runs with a constant rate, a cosine, and rates
that step down, and predict runs whose rate is stable and then decays. It takes a minute. The exit status is 1 if the
multi-power law misses the bar in a fit that has a run that steps down.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.curves.momentum import fit_momentum
from benchmarks.curves.published import FITTED, SIZES, published_curves
from benchmarks.curves.report import errors, holds, in_document, table
from foretrain.scaling.laws.curves.fit import fit_curves

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="File of the results.")] = Path("benchmarks/results/curves.json"),
    document: Annotated[Path | None, typer.Option(help="Document whose table is written again.")] = None,
) -> None:
    """Fit, predict, and write the results."""
    records = [record for size in SIZES for fitted in FITTED for record in _records(size, fitted)]
    out.write_text(json.dumps(records, indent=1) + "\n")
    if document:
        document.write_text(in_document(document.read_text(), records))
    console.print(table(records))
    judged = [each for each in records if each["law"] == "multi_power" and any("wsdcon" in run for run in each["runs"])]
    if not all(holds(each) for each in judged):
        raise typer.Exit(1)


def _records(size: str, fitted: str) -> list[dict[str, Any]]:
    """One record for each law."""
    curves = published_curves(size)
    runs = [curves[name] for name in FITTED[fitted]]
    multi_power, momentum = fit_curves(runs).law, fit_momentum(runs)
    parameters = {"multi_power": multi_power.to_dict(), "momentum": vars(momentum)}
    found = []
    for name, law in (("multi_power", multi_power), ("momentum", momentum)):
        found.append(
            {
                "size": size,
                "fitted": fitted,
                "runs": FITTED[fitted],
                "law": name,
                "parameters": {key: float(f"{value:.5g}") for key, value in parameters[name].items()},
                "errors": {key: errors(law.loss(each.schedule, each.step_N), each) for key, each in curves.items()},
            }
        )
    return found


if __name__ == "__main__":
    app()
