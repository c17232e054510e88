"""Whether vLLM, llama.cpp and TRL compute what foretrain does, from the folders that `foretrain export` writes.

    python -m benchmarks.consumers --document docs/interop.md
    python -m benchmarks.consumers --only vllm

A small model of each family is trained, exported in fp32, and given to each consumer, which has an environment of its
own with pinned versions. vLLM serves it over HTTP on the loopback interface, and llama.cpp has it as GGUF: their greedy
texts must be those of `foretrain generate`, token by token. TRL's SFTTrainer takes a step, whose loss must be ours.

It takes about half an hour of two cores, most of it to install, 6 GB of disk under --work, and packages from the
configured index of pip. If it is stopped, the same command continues; checks that have passed with the same packages
are not made again. The exit status is 1 if a check fails, and else 3 if a consumer cannot be had here.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.consumers.commands import CommandError
from benchmarks.consumers.consumer import CheckFailedError, Consumer, Job
from benchmarks.consumers.environments import versions
from benchmarks.consumers.models import model_of
from benchmarks.consumers.ours import Ours
from benchmarks.consumers.records import Record, add, in_document, is_done, read
from benchmarks.consumers.registry import CONSUMERS
from benchmarks.data.__main__ import machine
from foretrain.progress import print_line
from foretrain.trainer.run.environment import code_version

EXIT_FAILED, EXIT_NOT_RUN = 1, 3

app = typer.Typer(add_completion=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help="Only this consumer; may be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="File of the results.")] = Path("benchmarks/results/consumers.jsonl"),
    work: Annotated[Path, typer.Option(help="Folder of the environments and the models.")] = Path("runs/consumers"),
    document: Annotated[Path | None, typer.Option(help="Document whose tables are written again.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make also checks that have passed.")] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Check nothing, and write the document.")] = False,
) -> None:
    """Make the checks that are not in the file yet, and print what was found."""
    for name in only or []:
        if name not in CONSUMERS:
            raise typer.BadParameter(f"--only {name}: the consumers are {', '.join(CONSUMERS)}")
    chosen = [] if no_run else [each for name, each in CONSUMERS.items() if not only or name in only]
    found = [record for consumer in chosen for record in check_all(consumer, out, work.absolute(), again=again)]
    if document is not None:
        document.write_text(in_document(document.read_text("utf-8"), read(out)), encoding="utf-8")
    outcomes = [record["passed"] for record in found]
    if False in outcomes:
        raise typer.Exit(EXIT_FAILED)
    if None in outcomes:
        raise typer.Exit(EXIT_NOT_RUN)


def check_all(consumer: Consumer, out: Path, work: Path, *, again: bool) -> list[Record]:
    """Make the checks of a consumer that are left, and return their lines, which are in the file then."""
    packages = consumer.environment.packages
    left = [name for name in consumer.families if again or not is_done(read(out), consumer.name, name, packages)]
    if not left:
        print_line(f"{consumer.name}: all checks are in {out.name}")
        return []
    records = []
    try:
        python, problem = consumer.environment.make(work / "environments" / consumer.name, consumer.name), ""
    except CommandError as error:
        python, problem = Path(), str(error)
    for family in left:
        record: Record = {"consumer": consumer.name, "family": family, "way": consumer.way, "packages": list(packages)}
        outcome: Record = {"passed": None, "reason": problem} if problem else check(consumer, family, python, work)
        record |= {**outcome, "date": f"{datetime.now(UTC):%Y-%m-%d}", "code": code_version(), "machine": machine()}
        add(out, record)
        records.append(record)
        print_line(f"{consumer.name}, {family}: {_shown(record)}")
    return records


def check(consumer: Consumer, family: str, python: Path, work: Path) -> Record:
    """The outcome of one check: what was measured, whether it passed, and why not."""
    model = model_of(family, work)
    folder = work / "checks" / f"{consumer.name}_{model.exported.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = Job(model, Ours(model.run_dir), python, folder, f"{consumer.name}, {family}")
    measured: dict[str, Any] = {}
    reason = ""
    try:
        measured = consumer.check(job)
    except CheckFailedError as error:
        measured, reason = error.measured, str(error)
    except CommandError as error:
        reason = str(error)
    return {"versions": versions(python, consumer.shown_versions), "passed": not reason, "reason": reason, **measured}


def _shown(record: Record) -> str:
    if not record["passed"]:
        return record["reason"]
    if "our_loss" in record:
        return f"passed, the losses differ by {record['difference']:.1e} of ours"
    return f"passed, {record['tokens']} tokens of {record['prompts']} texts"


if __name__ == "__main__":
    app()
