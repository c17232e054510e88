"""Measure ready batches of tokens: ours, a plain file, and other libraries, side by side on one machine.

    python -m benchmarks.data --tokens 100M --out benchmarks/results/data.jsonl

All read the same tokens, one after another, each in a process of its own, in several rounds. The peers come with
`pip install -e '.[bench]'`; one that is not installed is reported as missing. The status is 1 where a bar fails.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.data_child import ALL
from benchmarks.data_contest import Contestant, write_source
from benchmarks.data_process import run_job
from benchmarks.data_report import (
    Record,
    bar_records,
    bar_table,
    bars,
    contest_table,
    fastest_workers,
    summarize,
)

PACKAGES = ("numpy", "torch", "webdataset", "mosaicml-streaming", "litdata", "datasets", "pyarrow", "torchdata")
TABLE_WIDTH = 130
SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9}

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


def parse_count(text: str) -> int:
    """Return the number that "100M" says."""
    digits, factor = (text[:-1], SUFFIXES[text[-1]]) if text[-1:] in SUFFIXES else (text, 1)
    try:
        return int(float(digits) * factor)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number such as 100M") from error


@app.command()
def main(
    tokens: Annotated[str, typer.Option(help="Tokens of the corpus, such as 100M.")] = "100M",
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each contestant is measured this often; medians count.")] = 3,
    seconds: Annotated[float, typer.Option(min=0, help="Measure batches for at least this long, each time.")] = 5,
    seq_len: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 32,
    only: Annotated[list[str] | None, typer.Option(help="Measure contestants whose name holds this only.")] = None,
    scale: Annotated[bool, typer.Option(help="Measure the resume and the index of large corpora too.")] = True,
    work_dir: Annotated[Path | None, typer.Option(help="Where to put some 2.5 GB per 100M tokens.")] = None,
) -> None:
    """Measure, print a table of it, and end with status 1 where a bar fails."""
    contestants = [each for each in ALL if not only or any(part in each.name for part in only)]
    with tempfile.TemporaryDirectory(prefix="data_bench_", dir=work_dir) as folder:
        bench = Bench(Path(folder), {"seq_len": seq_len, "batch_size": batch_size})
        header = {"type": "header", "tokens": parse_count(tokens), "rounds": rounds, **bench.asked, **machine()}
        console.print(f"writing {tokens} tokens ...")
        write_source(bench.folder, parse_count(tokens), seed=0)
        records = list(bench.contest(contestants, rounds, seconds))
        scale_record = bench.scale() if scale else {}
    summary = summarize(records, contestants)
    measured = bars(summary, contestants, scale_record)
    last = {"type": "summary", "contestants": summary, "bars": bar_records(measured)}
    if out is not None:
        lines = [header, *records, *([scale_record] if scale else []), last]
        out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Console(width=TABLE_WIDTH).print(contest_table(summary), bar_table(measured))
    if any(bar.passed is False for bar in measured):
        raise typer.Exit(1)


class Bench:
    """The contest in one folder."""

    def __init__(self, folder: Path, asked: dict[str, int]) -> None:
        self.folder, self.asked = folder, asked
        self._scratch = folder / "scratch"
        self._scratch.mkdir()

    def contest(self, contestants: list[Contestant], rounds: int, seconds: float) -> Iterator[Record]:
        """Yield a record of each measurement; all values of num_workers in the first round, then the fastest."""
        ready = []
        for contestant in contestants:
            problem = self._prepare(contestant)
            if problem is None:
                ready.append(contestant)
            else:
                yield self._record(contestant, 0, 0, problem)
        first_round: list[Record] = []
        for contestant in ready:
            for num_workers in contestant.workers:
                record = self._measure(contestant, 0, num_workers, seconds)
                first_round.append(record)
                yield record
        workers = fastest_workers(first_round)
        for number in range(1, rounds):
            for contestant in ready:
                if contestant.name in workers:
                    yield self._measure(contestant, number, workers[contestant.name], seconds)

    def scale(self) -> Record:
        """Measure what depends on the size of the corpus, which is simulated."""
        console.print("streams of 10 billion samples, and the index of 10 TB ...")
        record: Record = {"type": "scale"}
        for job in ("scale_write", "scale_resume", "scale_index"):
            record |= self._job(job, None, 0)
            if "failed" in record:
                break
        console.print(", ".join(f"{key} {_short(value)}" for key, value in record.items()), soft_wrap=True)
        return record

    def _prepare(self, contestant: Contestant) -> Record | None:
        """Write the contestant's files; what it lacks, or why that failed, if it did."""
        for module in contestant.modules:
            if importlib.util.find_spec(module) is None:
                console.print(f"{contestant.name}: {module} is not installed")
                return {"missing": module}
        console.print(f"{contestant.name}: writing its files ...")
        self._path(contestant).mkdir()
        result = self._job("write", contestant, 0)
        if "failed" not in result:
            return None
        console.print(f"{contestant.name}: {result['failed']}")
        return result

    def _measure(self, contestant: Contestant, number: int, num_workers: int, seconds: float) -> Record:
        load = os.getloadavg()[0]
        result = self._job("measure", contestant, num_workers, seconds=seconds)
        if "failed" not in result:
            resumed = self._job("resume", contestant, num_workers)
            result |= {key: value for key, value in resumed.items() if "peak" not in key and key != "failed"}
            result |= {"resume_failed": resumed["failed"]} if "failed" in resumed else {}
        record = self._record(contestant, number, num_workers, {**result, "load_before": load})
        told = ", ".join(f"{key} {_short(record[key])}" for key in TOLD if key in record)
        console.print(
            f"round {number + 1}, {contestant.name}, num_workers {num_workers}: {told}", highlight=False, soft_wrap=True
        )
        return record

    def _record(self, contestant: Contestant, number: int, num_workers: int, result: Record) -> Record:
        named = {"contestant": contestant.name, "note": contestant.note, "round": number, "num_workers": num_workers}
        return {"type": "run", **named, **result}

    def _path(self, contestant: Contestant | None) -> Path:
        return self.folder / (contestant.name.replace(", ", "_").replace(" ", "_") if contestant else "scale")

    def _job(self, job: str, contestant: Contestant | None, num_workers: int, **fields: Any) -> Record:
        asked = {
            "job": job,
            "contestant": contestant.name if contestant else None,
            "folder": str(self._path(contestant)),
            "num_workers": num_workers,
            "state": str(self._scratch / "state.pickle"),
            **self.asked,
            **fields,
        }
        return run_job(asked, self._scratch)


TOLD = ("mtok_s", "start_s", "resume_s", "peak_mib", "resume_failed", "failed")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> Record:
    """What the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    models = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    app()
