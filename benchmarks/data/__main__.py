"""Measure how fast batches of tokens are ready: from this library, a plain file and other libraries, on one machine.

    python -m benchmarks.data --tokens 100M --out benchmarks/results/data.jsonl

All contestants read the same tokens, one after another, each in a process of its own, in several rounds. The other
libraries come with `pip install -e '.[bench]'`; one that is not installed is reported as missing. The exit status is 1
if a bar fails.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from benchmarks.data.child import ALL, MIB
from benchmarks.data.contest import Contestant, write_source
from benchmarks.data.report import Record, bar_records, bar_table, bars, contest_table, fastest_workers, summarize

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "torch", "webdataset", "mosaicml-streaming", "litdata", "datasets", "pyarrow", "torchdata")
TABLE_WIDTH = 130
SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9}
SHOWN = ("mtok_s", "start_s", "resume_s", "peak_mib", "resume_failed", "failed")
"""Fields of a record that are printed while the benchmark runs."""
SAMPLE_EVERY_S = 0.05
TIMEOUT_S = 1800.0
LAST_LINES = 4

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


def parse_count(text: str) -> int:
    """Return the number that a text such as "100M" means."""
    digits, factor = (text[:-1], SUFFIXES[text[-1]]) if text[-1:] in SUFFIXES else (text, 1)
    try:
        return int(float(digits) * factor)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number such as 100M") from error


@app.command()
def main(
    tokens: Annotated[str, typer.Option(help="Tokens of the corpus, such as 100M.")] = "100M",
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each contestant; the median counts.")] = 3,
    seconds: Annotated[float, typer.Option(min=0, help="Shortest time of a measurement, in seconds.")] = 5,
    seq_len: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 32,
    only: Annotated[list[str] | None, typer.Option(help="Measure only contestants whose name contains this.")] = None,
    scale: Annotated[bool, typer.Option(help="Also measure the resume and the index of large corpora.")] = True,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for about 2.5 GB per 100M tokens.")] = None,
) -> None:
    """Measure all contestants and print tables. The exit status is 1 if a bar fails."""
    contestants = [each for each in ALL if not only or any(part in each.name for part in only)]
    asked = {"seq_len": seq_len, "batch_size": batch_size}
    with tempfile.TemporaryDirectory(prefix="data_bench_", dir=work_dir) as folder:
        bench = DataBenchmark(Path(folder), asked)
        header = {"type": "header", "tokens": parse_count(tokens), "rounds": rounds, **asked, **machine()}
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


class DataBenchmark:
    """The benchmark in one folder."""

    def __init__(self, folder: Path, asked: dict[str, int]) -> None:
        self.folder, self._asked = folder, asked
        self._scratch = folder / "scratch"
        self._scratch.mkdir()

    def contest(self, contestants: list[Contestant], rounds: int, seconds: float) -> Iterator[Record]:
        """Yield a record of each measurement: the first round with all values of num_workers, then the fastest."""
        problems = {contestant.name: self._prepare(contestant) for contestant in contestants}
        ready = [contestant for contestant in contestants if not problems[contestant.name]]
        for contestant in contestants:
            if problem := problems[contestant.name]:
                yield _record(contestant, 0, 0, problem)
        first_round = []
        for contestant in ready:
            for num_workers in contestant.workers:
                first_round.append(self._measure(contestant, 0, num_workers, seconds))
                yield first_round[-1]
        workers = fastest_workers(first_round)
        for number in range(1, rounds):
            for contestant in ready:
                if contestant.name in workers:
                    yield self._measure(contestant, number, workers[contestant.name], seconds)

    def scale(self) -> Record:
        """Return the measurements of corpora that are simulated, because they are too large."""
        console.print("streams of 10 billion samples, and the index of 10 TB ...")
        record: Record = {"type": "scale"}
        for job in ("scale_write", "scale_resume", "scale_index"):
            record |= self._run(job, None, 0)
            if "failed" in record:
                break
        console.print(_line(record, list(record)), soft_wrap=True)
        return record

    def _prepare(self, contestant: Contestant) -> Record:
        """Write the contestant's files, and return why that is impossible; an empty record if it is not."""
        for module in contestant.modules:
            if importlib.util.find_spec(module) is None:
                console.print(f"{contestant.name}: {module} is not installed")
                return {"missing": module}
        console.print(f"{contestant.name}: writing its files ...")
        self._folder_of(contestant).mkdir()
        result = self._run("write", contestant, 0)
        if "failed" not in result:
            return {}
        console.print(f"{contestant.name}: {result['failed']}")
        return result

    def _measure(self, contestant: Contestant, number: int, num_workers: int, seconds: float) -> Record:
        load = os.getloadavg()[0]
        result = self._run("measure", contestant, num_workers, seconds=seconds)
        if "failed" not in result:
            resumed = self._run("resume", contestant, num_workers)
            if "failed" in resumed:
                resumed["resume_failed"] = resumed.pop("failed")
            result |= {key: value for key, value in resumed.items() if "peak" not in key}
        record = _record(contestant, number, num_workers, {**result, "load_before": load})
        line = f"round {number + 1}, {contestant.name}, num_workers {num_workers}: {_line(record, SHOWN)}"
        console.print(line, highlight=False, soft_wrap=True)
        return record

    def _folder_of(self, contestant: Contestant | None) -> Path:
        return self.folder / (contestant.name.replace(", ", "_").replace(" ", "_") if contestant else "scale")

    def _run(self, job: str, contestant: Contestant | None, num_workers: int, **fields: Any) -> Record:
        """Return the result of a job, which runs in a process of its own, or {"failed": why}."""
        asked = {
            "job": job,
            "contestant": contestant.name if contestant else None,
            "folder": str(self._folder_of(contestant)),
            "num_workers": num_workers,
            "state": str(self._scratch / "state.pickle"),
            **self._asked,
            **fields,
        }
        return run_job(asked, self._scratch)


def run_job(fields: dict[str, Any], scratch: Path) -> Record:
    """Return the result of a job of benchmarks.data.child, with the peak memory of its processes, or why it failed."""
    path, log = scratch / "job.json", scratch / "job.log"
    path.write_text(json.dumps(fields))
    # The caches and temporary files of the peers stay in the scratch folder; the peers do not use the network.
    environment = {
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "LITDATA_DISABLE_VERSION_CHECK": "1",
    }
    command = [sys.executable, "-m", "benchmarks.data.child", str(path)]
    with log.open("wb") as output:
        process = psutil.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        peak = _watch(process)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        return {"failed": f"exit status {process.returncode}: " + " | ".join(lines[-LAST_LINES:])}
    result: Record = json.loads(path.read_text())
    return {**result, **peak}


def _watch(process: psutil.Popen) -> dict[str, float]:
    """Wait for a process, and return the largest memory of it and all its descendants together."""
    peak_mib = peak_anonymous_mib = 0.0
    end_s = time.monotonic() + TIMEOUT_S
    while process.poll() is None:
        sizes: list[Any] = []
        with suppress(psutil.NoSuchProcess):  # a process ended just now
            sizes += (each.memory_info() for each in (process, *process.children(recursive=True)))
        peak_mib = max(peak_mib, sum(size.rss for size in sizes) / MIB)
        peak_anonymous_mib = max(peak_anonymous_mib, sum(size.rss - size.shared for size in sizes) / MIB)
        if time.monotonic() > end_s:
            process.kill()
        time.sleep(SAMPLE_EVERY_S)
    return {"peak_mib": peak_mib, "peak_anonymous_mib": peak_anonymous_mib}


def _record(contestant: Contestant, number: int, num_workers: int, result: Record) -> Record:
    named = {"contestant": contestant.name, "note": contestant.note, "round": number, "num_workers": num_workers}
    return {"type": "run", **named, **result}


def _line(record: Record, keys: tuple[str, ...] | list[str]) -> str:
    shown = {key: record[key] for key in keys if key in record}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )


def machine() -> Record:
    """Return what the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    models = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


if __name__ == "__main__":
    app()
