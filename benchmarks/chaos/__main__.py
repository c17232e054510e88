"""Kill the processes of training runs with SIGKILL at random moments, and compare their curves with a calm run.

    python -m benchmarks.chaos --kills 500 --out benchmarks/results/chaos.jsonl

Each run has 200 steps and is killed --per-run times. Every other run keeps its layout, and `foretrain launch` starts it
again; it must have the same bits as the calm run. The others get another layout at each start; they must have the same
numbers within 1e-5. None may leave a process, a temporary file, an incomplete checkpoint or shared memory. Each run is
one line of the results. Exits with 1 if a run failed.
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

app = typer.Typer(add_completion=False)


@app.command()
def main(
    kills: Annotated[int, typer.Option(min=1, help="Processes to kill in all.")] = 500,
    per_run: Annotated[int, typer.Option(min=1, help="Of these, in one run.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the moments, the victims and the layouts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the verdict on each run to this .jsonl file.")] = None,
) -> None:
    """Kill, compare, and print a line for each kill and each run."""
    header = {"type": "header", "kills": kills, "seed": seed, **machine()}
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="chaos_") as folder, JobProgress(kills, label="kills") as progress:
        for record in verdicts(Path(folder), kills, per_run, seed, progress):
            progress.say(json.dumps(record))
            records.append(record)
            _write(out, [header, *records])
    failed = [record for record in records if not record["passed"]]
    total = sum(record["kills"] for record in records)
    summary = {"type": "summary", "kills": total, "runs": len(records), "failed_runs": len(failed)}
    _write(out, [header, *records, summary])
    typer.echo(f"{total} kills of {len(records)} runs; {len(failed)} runs failed")
    raise typer.Exit(1 if failed else 0)


def verdicts(folder: Path, kills: int, per_run: int, seed: int, progress: JobProgress) -> Iterator[dict[str, Any]]:
    """Yield a record of each run that was attacked."""
    progress.say("trains the calm run")
    campaign = Campaign(folder, write_corpus(folder / "texts"))
    progress.restart_clock()
    done = 0

    def on_kill(kill: Kill) -> None:
        progress.advance(1)
        progress.log(f"killed {kill.victim} at step {kill.step} ({kill.moment}); {progress.time_left()}")

    for number in range(-(-kills // per_run)):
        asked = min(per_run, kills - done)
        named = {"type": "run", "seed": seed + number}
        try:
            verdict = campaign.attack(asked, changes_layout=number % 2 == 1, seed=seed + number, on_kill=on_kill)
            yield {**named, **verdict.record()}
        except ChaosError as error:
            yield {**named, "passed": False, "kills": asked, "failed": str(error)}
        done += asked


def _write(out: Path | None, records: list[dict[str, Any]]) -> None:
    """Write the results so far, which a benchmark that is stopped leaves behind."""
    if out is not None:
        out.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    app()
