"""Measure what saves cost a run: from foretrain, and from other libraries, on the same state.

    python -m benchmarks.checkpoint --megabytes 1024 --ranks 1 --out checkpoint.jsonl --check

Every contestant runs in processes of its own, one after another, in several rounds. `stall_s` is how long training is
held up by a save, `total_s` the time until it is on the disk, and `memcpy_s` that of a bare copy of as many bytes in
the same process, which is the limit of a stall. The first save, which also makes buffers, is reported apart. Names with
`cpu` are seconds of CPU of the thread that trains. With --check, the exit status is 1 if a bar fails or is undecided.

Steps beside a save of foretrain are measured in pairs (`steps.py`), since the machine itself is slower in one second
than in the next: one step while the save is written, and one while the writer waits. The ratio has an interval, and
the bar passes if all of it does. More --pairs make it narrower, and so does a smaller --step-megabytes, whose steps are
shorter; what each save costs once weighs more then. `written` and `other CPU` of the table show that the writer does as
much in a step before an open gate as it does without one ("ungated"), and nothing in the other step of the pair.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.checkpoint.contestants import CONTESTANTS, OURS
from benchmarks.checkpoint.pairs import MIB, Record, slowest_ranks, steps_table
from benchmarks.checkpoint.report import bar_records, bar_table, bars, contest_table, limits, slowest
from benchmarks.data.__main__ import machine
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.launcher.local.run import RankError, call_local
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint.space import checkpoint_bytes

HEAD_DIM = 16
TABLE_WIDTH = 130
TIMEOUT_S = 3600.0

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    megabytes: Annotated[int, typer.Option(min=1, help="MiB of the state of each rank, at most.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each contestant; the median counts.")] = 3,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of steps, in all rounds, with and without a save.")] = 300,
    step_megabytes: Annotated[
        int | None, typer.Option(min=1, help="MiB of the state of each rank for the pairs of steps; as --megabytes.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Data-parallel ranks.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure only these contestants.")] = None,
    peers: Annotated[Path | None, typer.Option(help="Folder with more libraries, from `pip install --target`.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for the checkpoints, on the disk to measure.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a bar fails.")] = False,
) -> None:
    """Measure all contestants and print tables."""
    names = [name for name in CONTESTANTS if not only or name in only]
    config, of_steps = config_of(megabytes, ranks), config_of(step_megabytes or megabytes, ranks)
    share, of_steps_share = (checkpoint_bytes(each) // ranks for each in (config, of_steps))
    sizes = {"state_bytes_of_a_rank": share, "state_bytes_of_a_rank_for_steps": of_steps_share}
    asked = {"ranks": ranks, "rounds": rounds, "pairs": pairs, "threads_of_a_rank": 1, **sizes}
    header = {"type": "header", **asked, **machine()}
    console.print(f"{ranks} ranks with {share / MIB:.0f} MiB each")
    records = []
    _write(out, header, "w")
    with tempfile.TemporaryDirectory(prefix="checkpoint_bench_", dir=work_dir) as folder:
        plan = Plan(config, of_steps, names, rounds, -(-pairs // rounds), Path(folder), peers)
        for record in measurements(plan):
            records.append(record)
            _write(out, record)
    measured = bars(records)
    _write(out, {"type": "summary", "bars": bar_records(measured), "limits": bar_records(limits(records))})
    tables = (bar_table(measured, "Bars"), bar_table(limits(records), "What the machine allows"))
    Console(width=TABLE_WIDTH).print(contest_table(records, names), steps_table(records), *tables)
    if check and any(bar.value is not None and not bar.passed for bar in measured):
        raise typer.Exit(1)


def _write(out: Path | None, record: Record, mode: str = "a") -> None:
    """Add a line to the results, which a benchmark that is stopped leaves behind."""
    if out is not None:
        with out.open(mode) as file:
            file.write(json.dumps(record) + "\n")


def config_of(megabytes: int, ranks: int) -> Config:
    """The widest model of 12 layers of which each rank has at most that many MiB of state."""

    def of(d_model: int) -> Config:
        heads = d_model // HEAD_DIM
        model = ModelConfig(num_layers=12, d_model=d_model, num_heads=heads, d_ff=4 * d_model, vocab_size=512)
        model.seq_len = 32
        train = TrainConfig(global_batch_size=ranks, micro_batch_size=1)
        return Config(model=model, train=train, parallel=ParallelConfig(dp=ranks, zero_stage=1))

    d_model = HEAD_DIM
    while checkpoint_bytes(of(d_model + HEAD_DIM)) <= megabytes * MIB * ranks:
        d_model += HEAD_DIM
    return of(d_model)


@dataclass(frozen=True)
class Plan:
    """What is measured, and where."""

    config: Config
    of_steps: Config
    """The config for the pairs of steps."""
    names: Sequence[str]
    """The names of the contestants."""
    rounds: int
    pairs_of_a_round: int
    folder: Path
    peers: Path | None


def measurements(plan: Plan) -> Iterator[Record]:
    """A record of each contestant in each round, and of pairs of steps with and without a save of foretrain."""
    for number in range(plan.rounds):
        for name in plan.names:
            yield _record("save", name, number, plan.folder, plan.config, plan.peers)
        if OURS in plan.names:
            yield _record("steps", OURS, number, plan.folder, plan.of_steps, plan.pairs_of_a_round, number)


def _record(kind: str, name: str, number: int, folder: Path, config: Config, *more: Any) -> Record:
    """What the ranks measured, or why they could not."""
    ranks = Layout.from_config(config.parallel).world_size
    asked = {"type": kind, "contestant": name, "round": number, "load_before": os.getloadavg()[0]}
    asked["has_spare_core"] = ranks < (os.cpu_count() or 1)
    function, merged = {"save": ("rank:measure", slowest), "steps": ("steps:measure_steps", slowest_ranks)}[kind]
    result: Record
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        arguments = (CONTESTANTS[name], config, Path(fresh), *more)
        try:
            result = merged(call_local(f"benchmarks.checkpoint.{function}", arguments, ranks, timeout_s=TIMEOUT_S))
        except (RankError, TimeoutError) as error:
            lines = str(error).strip().splitlines()
            missing = [line for line in lines if "ModuleNotFoundError" in line]
            result = {"missing": missing[-1]} if missing else {"failed": " | ".join(lines[-4:])}
    shown = {key: round(each, 4) if isinstance(each, float) else each for key, each in result.items()}
    shown = {key: each for key, each in shown.items() if not isinstance(each, list)}
    console.print(f"round {number + 1}, {name}, {kind}: {shown}", highlight=False, soft_wrap=True)
    return {**asked, **result}


if __name__ == "__main__":
    app()
