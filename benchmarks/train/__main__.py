"""Measure how fast training is: foretrain, a bare loop of torch, and other libraries, on the same model and data.

    python -m benchmarks.train --size small --out train.jsonl --check

All contestants start from the same weights and see the same batches; one whose first losses, norms of gradients or
weights are not those of the bare loop is refused. Each has a process of its own, and they take a few steps in turn, in
a random order in each round, so that what else the machine does hits all alike. All are started again in each session,
since one process of a program may be faster than the next one. A ratio is the median over all rounds, with its interval
at 95 %. With --check, the exit status is 1 if a bar fails or is undecided. More --rounds and --sessions make intervals
narrower.

TFLOP/s are those of the model, F T, where F are the FLOPs of training on a token (`flops_per_token` of the first line,
which trainer/model/size.py defines) and T are tokens per second. MFU is F T / P (arXiv 2204.02311, appendix B), where P
is the peak of the GPU's datasheet for bf16; a CPU has none. The time to the first step is that of a new process, with
all imports, and with compilation from the beginning.
"""

import importlib.metadata
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.checkpoint.report import bar_table
from benchmarks.data.__main__ import machine
from benchmarks.train import report
from benchmarks.train.agreement import TOLERANCES
from benchmarks.train.contest import REFERENCE, Plan, RefusedReferenceError, contest
from benchmarks.train.contestants import CONTESTANTS, Contestant
from benchmarks.train.ratios import records_of
from benchmarks.train.task import SIZES, Task
from foretrain.progress import JobProgress
from foretrain.trainer.model.table import flops_per_token, num_params
from foretrain.trainer.run.environment import code_version
from foretrain.trainer.utilization import peak_tflops

PACKAGES = ("accelerate", "deepspeed", "litgpt", "megatron-core", "numpy", "torch", "torchtitan", "transformers")
TABLE_WIDTH = 150

app = typer.Typer(add_completion=False)


@app.command()
def main(
    size: Annotated[str, typer.Option(help=f"The model: {', '.join(SIZES)}.")] = "small",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    sessions: Annotated[int, typer.Option(min=1, help="How often all contestants are started again.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant in a session.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of a turn; one more precedes them.")] = 4,
    warmup: Annotated[int, typer.Option(min=0, help="Steps before the first round.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each contestant.")] = 1,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples of a step; default: by the size.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these contestants, and the bare loop.")] = None,
    peers: Annotated[Path | None, typer.Option(help="Folder with more libraries, from `pip install --target`.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of a step goes, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write every record to this .jsonl file.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Folder for temporary files.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a bar fails or is undecided.")] = False,
) -> None:
    """Measure all contestants and print tables."""
    task = _task(size, device, precision, threads, batch_size)
    chosen = _chosen(only, device)
    header = _header(size, task, {"sessions": sessions, "rounds": rounds, "steps": steps}, peers)
    write(out, [header], "w")
    records = []
    with (
        tempfile.TemporaryDirectory(prefix="train_bench_", dir=work_dir) as folder,
        JobProgress(sessions * rounds * len(chosen), label="training") as progress,
    ):
        plan = Plan(task, chosen, sessions, rounds, steps, warmup, Path(folder), peers, profile)
        try:
            for record in contest(plan, progress):
                records.append(record)
                write(out, [record])
        except RefusedReferenceError as error:
            raise typer.BadParameter(str(error)) from error
    measured = report.bars(records)
    lines, ratios = report.summary(records, header), report.ratio_records(records)
    write(out, [{"type": "summary", "contestants": lines, "ratios": ratios, "bars": records_of(measured)}])
    console = Console(width=TABLE_WIDTH)
    console.print(report.contest_table(lines), report.ratio_table(ratios), bar_table(measured, "Bars"))
    if profile:
        console.print(report.profile_table(records))
    if check and not report.is_passed(records, measured):
        raise typer.Exit(1)


def _task(size: str, device: str, precision: str, threads: int, batch_size: int | None) -> Task:
    for name, value, known in (
        ("size", size, SIZES),
        ("device", device, ("cpu", "cuda")),
        ("precision", precision, TOLERANCES),
    ):
        if value not in known:
            raise typer.BadParameter(f"--{name} {value}: use one of {', '.join(known)}")
    task = replace(SIZES[size], device=device, precision=precision, threads=threads)
    return replace(task, batch_size=batch_size) if batch_size else task


def _chosen(only: list[str] | None, device: str) -> dict[str, Contestant]:
    for name in only or []:
        if name not in CONTESTANTS:
            raise typer.BadParameter(f"--only {name}: the contestants are {'; '.join(CONTESTANTS)}")
    return {
        name: each
        for name, each in CONTESTANTS.items()
        if device in each.devices and (not only or name in only or name == REFERENCE)
    }


def _header(size: str, task: Task, asked: dict[str, int], peers: Path | None) -> dict[str, Any]:
    gpu = ""
    if task.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise typer.BadParameter("--device cuda: torch sees no CUDA device here")
        gpu = torch.cuda.get_device_name()
    model = task.config(Path()).model
    with_peers = importlib.metadata.distributions(path=[str(peers)]) if peers else ()
    installed = {each.metadata["Name"].lower(): each.version for each in with_peers}
    installed |= {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    return {
        "type": "header",
        "size": size,
        "task": task.to_dict(),
        **asked,
        "tokens_per_step": task.tokens_per_step,
        "num_params": num_params(model),
        "flops_per_token": flops_per_token(model),
        "gpu": gpu,
        "peak_tflops": peak_tflops(gpu) if gpu else None,
        "tolerance": vars(TOLERANCES[task.precision]),
        "code": code_version(),
        **machine(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def write(out: Path | None, records: list[dict[str, Any]], mode: str = "a") -> None:
    """Add lines to the results, which a benchmark that is stopped leaves behind."""
    if out is not None:
        with out.open(mode) as file:
            file.writelines(f"{json.dumps(record)}\n" for record in records)


if __name__ == "__main__":
    app()
