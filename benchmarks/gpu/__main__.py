"""`python -m benchmarks.gpu`: check and measure foretrain on the GPUs of this machine, within ten minutes.

It uses 1, 2, 4 or 8 GPUs, as many as there are. `--device cpu` tries the program itself on two CPU ranks. The exit
status is 0 if all checks passed, 1 if one failed, and else 3 if the time did not suffice for all.
"""

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from benchmarks.gpu import machine
from benchmarks.gpu.budget import Budget, OutOfTimeError
from benchmarks.gpu.context import FORETRAIN, ROOT, CheckFailedError, Context
from benchmarks.gpu.outcome import EXIT_REFUSED, Outcome, exit_status, last_lines, write_results
from benchmarks.gpu.registry import CHECKS, Check, not_run, run_check
from foretrain.data_pipeline.prepare.input_files import standard_library
from foretrain.trainer.run.environment import code_version

app = typer.Typer(add_completion=False)


@app.command()
def main(
    device: Annotated[
        Literal["cuda", "cpu"], typer.Option(help="cuda; or cpu, to try the program without a GPU.")
    ] = "cuda",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Results file. Default: benchmarks/results/gpu_NAME_COUNT.json.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time for all checks; what does not fit is not run.")] = 10.0,
    only: Annotated[str, typer.Option(metavar="NAME,...", help="Run only these checks.")] = "",
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the corpus, which is kept, and of the runs.")
    ] = Path("runs/gpu"),
) -> None:
    """Run the checks, and write one results file."""
    budget = Budget(time.monotonic(), 60 * minutes)
    checks = _chosen(only)
    if minutes <= 0:
        _refuse(f"--minutes {minutes:g}: use more than 0")
    # A batch system that ends the job must not lose what was found.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    described = machine.ask()
    num_ranks = machine.ranks_for(described["num_gpus"]) if device == "cuda" else machine.CPU_RANKS
    if not num_ranks:
        _refuse(
            f"--device cuda: torch {described['torch']} finds no GPU here: see whether nvidia-smi lists one and "
            "CUDA_VISIBLE_DEVICES allows it, install a torch with CUDA, or try the program with --device cpu"
        )
    name = machine.file_name(described, device, num_ranks)
    path = out or ROOT / "benchmarks" / "results" / name
    header = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": code_version(),
        "device": device,
        "num_ranks": num_ranks,
        "minutes": minutes,
        "machine": described,
    }
    folder = folder.absolute()
    gpu = described["gpus"][0]["name"] if device == "cuda" else ""
    context = Context(device, num_ranks, gpu, folder, folder / f"data_{device}", budget)
    _say(f"{num_ranks} ranks on {gpu or 'CPUs'}, at most {minutes:g} minutes, results in {path.name}")
    try:
        write_results(path, header, [])  # a path that cannot be written is an error now, and not at the end
    except OSError as error:
        _refuse(f"the results cannot be written to {path} ({error.strerror}): choose another file with --out")
    outcomes = run_all(checks, context, path, header)
    raise typer.Exit(exit_status(outcomes))


def run_all(checks: Sequence[Check], context: Context, path: Path, header: dict[str, Any]) -> list[Outcome]:
    """Prepare the data, run the checks, and return the outcomes. After each check, the results file has all so far."""
    outcomes: list[Outcome] = []
    try:
        if any(check.needs_data and not check.obstacle(context) for check in checks):
            header["prepare_s"] = round(_prepare(context), 1)
        for check in checks:
            _say(f"{check.name}: starts, {context.budget.left_s(time.monotonic()):.0f} s are left")
            part = context.budget.part(check.share, time.monotonic(), at_least_s=2 * check.needs_s)
            own = replace(context, folder=context.folder / "checks" / check.name, budget=part)
            outcomes.append(run_check(check, own))
            _say(_line(outcomes[-1]))
            write_results(path, header, outcomes)
    except KeyboardInterrupt:
        _say("interrupted: what was found so far is written")
        outcomes += [not_run(check, "the program was interrupted") for check in checks[len(outcomes) :]]
    except (CheckFailedError, OutOfTimeError) as error:
        outcomes = [_without_data(check, context, error) for check in checks]
        _say(outcomes[0].reason)
    write_results(path, header, outcomes)
    return outcomes


def _prepare(context: Context) -> float:
    """Make the corpus unless it is there, and return the seconds that it took."""
    started_s = time.monotonic()
    _say("data: Python's standard library")
    # On CPUs, where only the program itself is tried, a part of it, byte by byte, takes a second.
    text = ["--stdlib"] if context.on_gpus else [str(standard_library() / "asyncio"), "--vocab-size", "258"]
    context.run(*FORETRAIN, "prepare", *text, "--out", str(context.data), "--reuse")
    return time.monotonic() - started_s


def _without_data(check: Check, context: Context, error: CheckFailedError | OutOfTimeError) -> Outcome:
    reason = f"the corpus could not be prepared: {error}"
    if isinstance(error, OutOfTimeError):
        return not_run(check, reason)
    log = context.log.read_text(encoding="utf-8", errors="replace")
    return Outcome(check.name, "failed", reason=reason, output=last_lines(log))


def _chosen(only: str) -> list[Check]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [check.name for check in CHECKS]
    if unknown := [name for name in names if name not in known]:
        _refuse(f"--only {only}: there is no check {', '.join(unknown)}; there are {', '.join(known)}")
    return [check for check in CHECKS if not names or check.name in names]


def _line(outcome: Outcome) -> str:
    found = outcome.reason or ", ".join(_numbers(outcome.measured))
    return f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s. {found}"


def _numbers(measured: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in measured.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name} ")
        elif isinstance(value, int | float):
            yield f"{prefix}{name} {value:.4g}"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _refuse(problem: str) -> NoReturn:
    typer.echo(f"error: {problem}", err=True)
    raise typer.Exit(EXIT_REFUSED)


if __name__ == "__main__":
    app()
