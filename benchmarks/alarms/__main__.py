"""Whether runs with a planted bug are reported, and sound runs are not.

    python -m benchmarks.alarms --out benchmarks/results/alarms.jsonl --document docs/prediction.md

A ladder is trained and a law fitted to it. A target of four times the compute of its largest proxy is predicted with
twenty seeds, which the ladder does not have, and each prediction is sealed before its run. Twenty runs are sound;
others have a bug from their middle on (bugs.py). Of each is recorded whether `train.prediction` warned of it and when,
and whether `foretrain fit` names it as a run that leaves the common curve, if it is given together with the ladder. The
same bugs are planted in the largest proxy, in whose place `fit` gets the run.

It takes about three quarters of an hour of one idle core, and needs no network. If it is stopped, the same command
continues; runs that are in the file are not made again.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.alarms.judge import named
from benchmarks.alarms.plan import Plan
from benchmarks.alarms.report import Record, in_document, print_table
from benchmarks.alarms.runs import Bench
from benchmarks.data.__main__ import machine
from foretrain.files import write_atomically
from foretrain.progress import JobProgress
from foretrain.trainer.run.environment import code_version

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="File of the results.")] = Path("benchmarks/results/alarms.jsonl"),
    work: Annotated[Path, typer.Option(help="Folder of the corpus and the runs.")] = Path("runs/alarms"),
    document: Annotated[Path | None, typer.Option(help="Document whose table is written again.")] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Train nothing, and judge the runs in the file again.")
    ] = False,
) -> None:
    """Train what is not in the file yet, and print what was reported."""
    if no_run:
        judge_again(out)
    else:
        run(Plan(), out, work)
    records = read(out)
    if document is not None:
        document.write_text(in_document(document.read_text("utf-8"), records), encoding="utf-8")
    print_table(records, console)


def read(out: Path) -> list[Record]:
    """The lines of the results; empty if there is no file."""
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []


def run(plan: Plan, out: Path, work: Path) -> None:
    """Do what is left of a plan, a line of the file after the other."""
    lines = read(out)
    known = {line["run"] for line in lines if line["kind"] == "run"}
    left = [each for each in plan.runs() if each.name not in known]
    if not left:
        return
    bench = Bench(plan, work)
    if lines and (lines[0]["widths"], lines[0]["target_width"]) != bench.widths:
        raise ValueError(f"{out} has the results of another plan, of widths {lines[0]['widths']}: give another --out")
    bench.climb()
    if not lines:
        lines.append({**bench.header(), "machine": machine(), "code": code_version()})
        _append(out, lines[0])
    flops = {each.name: bench.flops(each) for each in left}
    with JobProgress(sum(flops.values()), label="FLOPs", console=console) as progress:
        for each in left:
            measured = bench.run(each)
            line = {**measured, "fit": named(lines[0], measured)}
            _append(out, line)
            progress.advance(flops[each.name])
            reported = line.get("reported_step")
            progress.say(
                f"{each.name}: loss {line['val_loss']:.4f}, "
                f"{f'warned of at step {reported}' if reported else 'not warned of'}, "
                f"{'named' if line['fit']['is_named'] else 'not named'} by fit; {progress.time_left()}"
            )


def judge_again(out: Path) -> None:
    """Write again what `foretrain fit` says of the runs in the file."""
    setup, *lines = read(out)
    judged = [{**line, "fit": named(setup, line)} for line in lines]
    write_atomically(out, "".join(json.dumps(line) + "\n" for line in [setup, *judged]))


def _append(out: Path, line: Record) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    app()
