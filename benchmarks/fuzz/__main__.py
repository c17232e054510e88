"""Fuzz all parsers of untrusted bytes, guided by which branches each input reaches.

    pip install -e '.[fuzz]' && python -m benchmarks.fuzz --minutes 60 --out benchmarks/results/fuzz.jsonl

Each parser gets an equal part of the time, in a process of its own. A finding is an exception other than its refusals,
a message that users cannot read, 2 GB of memory, or 10 seconds. Its input is kept, and `--reproduce FILE` parses it
again. What was reached is kept in --work, from where the same command continues. Exits with 1 if there are findings.
"""

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.data.__main__ import machine
from benchmarks.fuzz.targets import TARGETS, Target, check
from foretrain.progress import JobProgress
from foretrain.trainer.run.environment import code_version

app = typer.Typer(add_completion=False)

MAX_FINDINGS = 10
"""Findings after which a parser is not fuzzed any further."""
INPUT_S = 10
"""Seconds after which one input is a finding."""
RSS_MB = 4096
ENDED = "the process ended with status "


@dataclass
class Fuzzed:
    """What was done to one parser, and what was found."""

    name: str
    seconds: float = 0.0
    executions: int = 0
    branches: int = 0
    """Branches of Python code that were reached, as libFuzzer counts them."""
    inputs_kept: int = 0
    """Inputs that reached something new, and from which further ones are made."""
    peak_rss_mb: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0.01, help="Time for all parsers together.")] = 60,
    only: Annotated[list[str] | None, typer.Option(help="Fuzz only parsers whose name contains this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the results to this .jsonl file.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the inputs.")] = Path("runs/fuzz"),
    reproduce: Annotated[Path | None, typer.Option(help="Parse this one input, of the parser --only.")] = None,
) -> None:
    """Fuzz the parsers one after the other, and print a line for each."""
    chosen = [target for target in TARGETS if not only or any(part in target.name for part in only)]
    if not chosen:
        raise typer.BadParameter(f"no parser has such a name: {', '.join(target.name for target in TARGETS)}")
    if reproduce is not None:
        if len(chosen) != 1:
            raise typer.BadParameter("name one parser with --only")
        check(chosen[0], chosen[0].open(work / chosen[0].name), reproduce.read_bytes())
        typer.echo("the input is parsed or refused as it should be")
        return
    if importlib.util.find_spec("atheris") is None:
        raise typer.BadParameter("the fuzzer is not installed: pip install -e '.[fuzz]'")
    header = {"type": "header", "minutes": minutes, "code": code_version(), **machine()}
    results: list[Fuzzed] = []
    with JobProgress(minutes * 60, label="fuzzing") as progress:
        for target in chosen:
            results.append(fuzz(target, minutes * 60 / len(chosen), work / target.name))
            progress.advance(minutes * 60 / len(chosen))
            progress.say(json.dumps(asdict(results[-1])))
            if out is not None:  # after each, since a later parser may end the command
                records = [header, *({"type": "parser", **asdict(each)} for each in results)]
                out.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    num_findings = sum(len(each.findings) for each in results)
    typer.echo(f"{sum(each.executions for each in results):,} inputs, {num_findings} findings")
    raise typer.Exit(1 if num_findings else 0)


def fuzz(target: Target, seconds: float, work: Path) -> Fuzzed:
    """Fuzz one parser for that many seconds, again after each finding."""
    kept, findings = work / "inputs", work / "findings"
    for folder in (kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds(work)):
        for repair in (0, 1):
            (kept / f"seed-{number}-{repair}").write_bytes(bytes([repair]) + seed)
    result, started_s = Fuzzed(target.name), time.monotonic()
    while (left_s := round(seconds - (time.monotonic() - started_s))) > 0 and len(result.findings) < MAX_FINDINGS:
        count(result, run_child(target, left_s, work, kept, findings))
    result.seconds = round(time.monotonic() - started_s, 1)
    result.inputs_kept = len([*kept.iterdir()])
    return result


def run_child(target: Target, seconds: int, work: Path, kept: Path, findings: Path) -> str:
    """What a process that fuzzes printed. It ends after that many seconds, or at its first finding."""
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-timeout={INPUT_S}",
        f"-rss_limit_mb={RSS_MB}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        str(kept),
    ]
    command = [sys.executable, "-m", "benchmarks.fuzz.child", target.name, str(work), *options]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=seconds + 20 * INPUT_S)
    printed = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    return f"{printed}\n{ENDED}{ended.returncode}\n"


def count(result: Fuzzed, printed: str) -> None:
    """Add what a process printed. Raises RuntimeError, with the end of it, if it did not fuzz at all."""

    def greatest(pattern: str) -> int:
        return max((int(number) for number in re.findall(pattern, printed, re.MULTILINE)), default=0)

    executions = greatest(r"stat::number_of_executed_units:\s*(\d+)") or greatest(r"^#(\d+)")
    found = re.findall(r"Test unit written to (\S+)", printed)
    if not executions and not found:
        raise RuntimeError(f"{result.name} was not fuzzed:\n{printed[-3000:]}")
    result.executions += executions
    result.branches = max(result.branches, greatest(r"cov: (\d+)"))
    result.peak_rss_mb = max(result.peak_rss_mb, greatest(r"stat::peak_rss_mb:\s*(\d+)"), greatest(r"rss: (\d+)Mb"))
    for path in found:
        result.findings.append({"input": Path(path).name, "error": error_of(printed.splitlines())})
    if not found and not printed.endswith(f"{ENDED}0\n"):
        result.findings.append({"input": "", "error": printed.splitlines()[-1]})


def error_of(lines: Sequence[str]) -> str:
    """The line that says what was found."""
    for number, line in enumerate(lines):
        if "Uncaught Python exception" in line:
            return next((each for each in lines[number + 1 :] if each and not each.startswith(" ")), "")[:300]
    return next((line for line in lines if "ERROR: libFuzzer" in line), "")[:300]


if __name__ == "__main__":
    app()
