"""Kill the processes of training runs with SIGKILL at random moments, and compare their curves with a calm run.

    python -m benchmarks.chaos --kills 500 --out benchmarks/results/chaos.jsonl

Each run has 200 steps and is killed --per-run times. Every other run keeps its layout, and `foretrain launch` starts it
again; it must have the same bits as the calm run. The others get another layout at each start; they must have the same
numbers within 1e-5. None may leave a process, a temporary file, an incomplete checkpoint or shared memory. Each run is
one line of the results. Exits with 1 if a run failed. If it is stopped, the same command continues after the last run
that is in the results.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chaos.attack import ChaosError, Kill
from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.target import write_corpus
from benchmarks.data.__main__ import machine
from foretrain.progress import JobProgress
from foretrain.trainer.run.environment import code_version

app = typer.Typer(add_completion=False)


@app.command()
def main(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill in all.")] = 500,
    per_run: Annotated[int, typer.Option(min=1, help="Of these, in one run.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the moments, the victims and the layouts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the verdict on each run to this .jsonl file.")] = None,
) -> None:
    """Kill, compare, and print a line for each kill and each run."""
    header = {"type": "header", "kills": kills, "per_run": per_run, "seed": seed, **machine()}
    records = done(out, header)
    asked = [min(per_run, kills - first) for first in range(0, kills, per_run)]
    with (
        tempfile.TemporaryDirectory(prefix="chaos_") as folder,
        JobProgress(sum(asked[len(records) :]), label="kills") as progress,
    ):
        for record in verdicts(Path(folder), asked, len(records), seed, progress):
            progress.say(json.dumps(record))
            records.append(record)
            _write(out, [header, *records])
    failed = [record for record in records if not record["passed"]]
    total = sum(record["kills"] for record in records)
    summary = {"type": "summary", "kills": total, "runs": len(records), "failed_runs": len(failed)}
    _write(out, [header, *records, summary])
    typer.echo(f"{total} kills of {len(records)} runs; {len(failed)} runs failed")
    raise typer.Exit(1 if failed else 0)


def done(out: Path | None, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a results file has. Raises typer.BadParameter if it was asked for others, or on another machine."""
    if out is None or not out.exists():
        return []
    first, *records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    if first != header:
        raise typer.BadParameter(f"{out} has the results of another command or machine: give another file")
    return [record for record in records if record["type"] == "run"]


def verdicts(
    folder: Path, asked: list[int], num_done: int, seed: int, progress: JobProgress
) -> Iterator[dict[str, Any]]:
    """Yield a record of each run that is attacked; the first `num_done` are left out."""
    if num_done == len(asked):
        return
    progress.say("trains the calm run")
    campaign = Campaign(folder, write_corpus(folder / "texts"))
    progress.restart_clock()

    def on_kill(kill: Kill) -> None:
        progress.advance(1)
        progress.log(f"killed {kill.victim} at step {kill.step} ({kill.moment}); {progress.time_left()}")

    for number, kills in list(enumerate(asked))[num_done:]:
        named = {"type": "run", "seed": seed + number, "code": code_version()}
        try:
            verdict = campaign.attack(kills, changes_layout=number % 2 == 1, seed=seed + number, on_kill=on_kill)
            yield {**named, **verdict.record()}
        except ChaosError as error:
            yield {**named, "passed": False, "kills": kills, "failed": str(error)}


def _write(out: Path | None, records: list[dict[str, Any]]) -> None:
    """Write the results so far, which a benchmark that is stopped leaves behind."""
    if out is not None:
        out.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    app()
