"""Predict every run of a table from those with at most 1/30 and 1/100 of its compute, as `foretrain predict` would.

    python -m benchmarks.tables chinchilla.csv cerebras.csv --out benchmarks/results/tables.jsonl
    python -m benchmarks.tables grid.csv --lowest --loss "smooth loss" --out benchmarks/results/tables.jsonl

Each target is predicted by a law that is fitted without it, and without every other run of more than 1/ratio of its
compute. Predictions that the tool refuses are counted apart. Each line of the results is a table and a ratio: errors,
how many losses are inside of their intervals, and the errors of simpler rules.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tables.predictions import predictions, summary
from benchmarks.tables.report import in_document, merged
from foretrain.progress import JobProgress
from foretrain.scaling.prediction.table import read_facts
from foretrain.trainer.metrics import VAL_LOSS

app = typer.Typer(add_completion=False)


@app.command()
def main(
    tables: Annotated[list[Path], typer.Argument(help="Tables with loss, and two of N, D and C.")],
    ratio: Annotated[
        list[float] | None, typer.Option(help="Least extrapolation in compute. Default: 30 and 100.")
    ] = None,
    lowest: Annotated[bool, typer.Option("--lowest", help="Take the lowest loss of each size.")] = False,
    loss: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column with the loss, such as a smoothed one. Default: loss.")
    ] = VAL_LOSS,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Add the results to this .jsonl file.")] = None,
    document: Annotated[Path | None, typer.Option(help="Document whose table is written again from FILE.")] = None,
) -> None:
    """Print a line for each table and ratio."""
    lines: list[dict[str, Any]] = []
    for path in tables:
        runs, problems = read_facts([path], loss)
        for problem in problems:
            typer.echo(f"left out: {problem}", err=True)
        for least in ratio or [30.0, 100.0]:
            with JobProgress(len(runs), label=f"{path.stem}, {least:g}x") as progress:
                found = list(predictions(runs, least, lowest=lowest, on_target=lambda: progress.advance(1)))
            lines.append({"table": path.stem, "ratio": least, "lowest": lowest, **summary(found)})
            typer.echo(json.dumps(lines[-1]))
    if out is not None:
        records = merged(out, lines)
        out.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
        if document is not None:
            document.write_text(in_document(document.read_text(encoding="utf-8"), records), encoding="utf-8")


if __name__ == "__main__":
    app()
