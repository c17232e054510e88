"""Measure what a step costs with more ranks, and with larger models, samples, checkpoints and runs.

    python -m benchmarks.scale --out scale.jsonl --check

Every point is measured once in each round, in random order, in new processes with one thread each. Its cost is compared
with that of the base of its axis in the same round: for ranks, core seconds per token, against one process with the
same batch; for the sizes of the model, seconds per FLOP; for checkpoints, seconds per byte; for steps, the memory after
many of them against that after 100. With --check, the exit status is 1 if a bar fails or is undecided.
"""

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.checkpoint.report import bar_table
from benchmarks.data.__main__ import machine
from benchmarks.scale.points import ALL_SIZES, CHECKPOINT, STEPS, Point, Sizes, points
from benchmarks.scale.report import bars, is_passed, table
from benchmarks.train.__main__ import write
from benchmarks.train.ratios import records_of
from foretrain.launcher.local.run import RankError, call_local
from foretrain.progress import JobProgress
from foretrain.trainer.checkpoint.space import checkpoint_bytes
from foretrain.trainer.model.table import flops_per_token
from foretrain.trainer.run.environment import code_version

Record = dict[str, Any]
TABLE_WIDTH = 150
TIMEOUT_S = 1800.0
SUMMED = ("cpu_s",)
"""Numbers that are summed over ranks. Of the others, the largest counts: a step ends with its last rank."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    size: Annotated[str, typer.Option(help=f"The model: {', '.join(ALL_SIZES)}.")] = "small",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each point.")] = 6,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of a point in a round.")] = 4,
    axis: Annotated[list[str] | None, typer.Option(help="Measure only these axes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for the checkpoints, on the disk to measure.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a bar fails or is undecided.")] = False,
) -> None:
    """Measure all points and print tables."""
    if size not in ALL_SIZES:
        raise typer.BadParameter(f"--size {size}: use one of {', '.join(ALL_SIZES)}")
    sizes, num_cores = ALL_SIZES[size], len(os.sched_getaffinity(0))
    chosen = [point for point in points(sizes, num_cores) if not axis or point.axis in axis]
    if not chosen:
        raise typer.BadParameter(f"--axis {', '.join(axis or [])}: no such axis")
    header = {"type": "header", "size": size, "rounds": rounds, "steps": steps, "code": code_version(), **machine()}
    write(out, [header], "w")
    records = []
    with (
        tempfile.TemporaryDirectory(prefix="scale_bench_", dir=work_dir) as folder,
        JobProgress(rounds * len(chosen), label="scale") as progress,
    ):
        for record in _measurements(chosen, sizes, (rounds, steps), Path(folder), progress):
            records.append(record)
            write(out, [record])
    measured = bars(records)
    write(out, [{"type": "summary", "bars": records_of(measured)}])
    Console(width=TABLE_WIDTH).print(table(records), bar_table(measured, "Bars"))
    if check and not is_passed(measured):
        raise typer.Exit(1)


def _measurements(
    chosen: Sequence[Point], sizes: Sizes, asked: tuple[int, int], folder: Path, progress: JobProgress
) -> Iterator[Record]:
    """A record of each point in each round."""
    (rounds, steps), draw = asked, random.Random(0)
    for number in range(rounds):
        for point in draw.sample(chosen, len(chosen)):
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                yield {"round": number, "place": chosen.index(point), **_record(point, sizes, steps, Path(fresh))}
            progress.advance(1)
        progress.log(f"round {number + 1} of {rounds}, {progress.time_left()}")


def _record(point: Point, sizes: Sizes, steps: int, folder: Path) -> Record:
    """What the ranks of a point measured, or why they could not."""
    config = point.config(folder)
    record: Record = {
        "type": "point",
        "axis": point.axis,
        "point": point.name,
        "ranks": point.num_ranks,
        "is_base": point.is_base,
        "limit": point.limit,
        "num_cores": len(os.sched_getaffinity(0)),
        "tokens_per_step": point.task.tokens_per_step,
        "flops_per_token": flops_per_token(config.model),
        "bytes": checkpoint_bytes(config),
        "load_before": os.getloadavg()[0],
    }
    function, arguments = {
        CHECKPOINT: ("measure_saves", (config, folder / "checkpoints")),
        STEPS: ("measure_memory", (config, sizes.first_steps, sizes.num_steps)),
    }.get(point.axis, ("measure_steps", (config, steps)))
    try:
        ranks = call_local(f"benchmarks.scale.rank:{function}", arguments, point.num_ranks, timeout_s=TIMEOUT_S)
    except (RankError, TimeoutError) as error:
        return {**record, "failed": " | ".join(str(error).strip().splitlines()[-3:])}
    return {**record, **merged(ranks)}


def merged(ranks: Sequence[Record]) -> Record:
    """One record of all ranks."""
    found: Record = {}
    for name, value in ranks[0].items():
        of_ranks = [rank[name] for rank in ranks]
        if isinstance(value, list):
            found[name] = [max(each) for each in zip(*of_ranks, strict=True)]
        else:
            found[name] = sum(of_ranks) if name in SUMMED else max(of_ranks)
    return found


if __name__ == "__main__":
    app()
