"""What a coordinate check shows and writes: progress, tables of slopes, and a record for `foretrain transfer`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from foretrain.files import write_atomically
from foretrain.progress import print_line
from foretrain.scaling.architecture import architecture
from foretrain.scaling.console import StudyProgress, console_for_tables
from foretrain.scaling.coord_check.judge import KINDS, TOLERANCES, Measured, Slope
from foretrain.scaling.coord_check.plan import Axis, CoordCheckPlan, Rung, work
from foretrain.scaling.coord_check.verdict import CoordCheckVerdict
from foretrain.scaling.records import COORD_CHECK_FILE, MIN_CHECK_WIDTH, CoordCheckRecord, to_json
from foretrain.trainer.run.environment import code_version

PLOT_FILE = "coord_check.png"


def progress_of(plan: CoordCheckPlan, console: Console | None = None) -> StudyProgress[Rung]:
    """The progress of a coordinate check."""
    return StudyProgress(plan.rungs, work, console)


def print_verdict(plan: CoordCheckPlan, verdict: CoordCheckVerdict, console: Console | None = None) -> None:
    """Print a table of slopes for each ladder, what is wrong, and the verdict."""
    console = console or console_for_tables()
    for ladder in plan.ladders:
        slopes = [slope for slope in verdict.slopes if slope.axis == ladder.axis]
        if slopes:
            console.print(_table(ladder.axis, ladder.sizes, slopes, plan.judged_steps))
    for problem in verdict.problems:
        print_line(problem, console=console, style="red")
    if any(not slope.is_judged for slope in verdict.slopes):
        console.print(
            "In brackets, and not judged: slopes that correct models have too (a random head; both ends of the stack).",
            style="dim",
        )
    narrowest = min(rung.width for rung in plan.rungs)
    if narrowest < MIN_CHECK_WIDTH:
        console.print(
            f"Models {narrowest} wide show little, and `foretrain transfer` needs a check from {MIN_CHECK_WIDTH} up.",
            style="yellow",
        )
    style = "green" if verdict.passed else "bold red"
    print_line(summary(plan, verdict), console=console, style=style)


def summary(plan: CoordCheckPlan, verdict: CoordCheckVerdict) -> str:
    """The verdict in one line."""
    worst, name = verdict.worst, plan.config.mup.parametrization
    axes = " and ".join(f"{ladder.axis}s" for ladder in plan.ladders)
    found = "nothing was measured"
    if worst is not None:
        value = "no slope" if worst.value is None else f"{worst.axis}^{worst.value:.2f}"
        found = f"the steepest is {value}, of the {worst.kind} of {worst.module} at step {worst.step}"
    allowed = " and ".join(f"{ladder.axis}^{TOLERANCES[ladder.axis]}" for ladder in plan.ladders)
    result = f"PASSED: in {name} every" if verdict.passed else f"FAILED: in {name} not every"
    return f"{result} activation keeps its size over {axes} ({found}; {allowed} is allowed)"


def write(
    folder: Path, plan: CoordCheckPlan, measured: Mapping[Rung, Sequence[Measured]], verdict: CoordCheckVerdict
) -> None:
    """Write the record of the check, and its picture."""
    from foretrain.scaling.coord_check.plot import plot  # not at the top: matplotlib takes a second

    write_atomically(folder / COORD_CHECK_FILE, to_json(record(plan, verdict), indent=1))
    plot(plan, measured, verdict, folder / PLOT_FILE)


def record(plan: CoordCheckPlan, verdict: CoordCheckVerdict) -> CoordCheckRecord:
    """Everything that was checked and found."""
    sizes = {ladder.axis: list(ladder.sizes) for ladder in plan.ladders}
    worst = verdict.worst
    slopes: dict[str, Any] = {}
    for slope in verdict.slopes:
        steps = slopes.setdefault(slope.axis, {}).setdefault(slope.module, {}).setdefault(slope.kind, {})
        steps[str(slope.step)] = slope.value
    return CoordCheckRecord(
        passed=verdict.passed,
        architecture=architecture(plan.config),
        code=code_version(),
        max_slope=None if worst is None or worst.value is None else abs(worst.value),
        tolerances={ladder.axis: TOLERANCES[ladder.axis] for ladder in plan.ladders},
        widths=sizes["width"],
        depths=sizes.get("depth", []),
        seeds=[plan.config.train.seed + seed for seed in range(plan.num_seeds)],
        lr=plan.lr,
        steps=plan.num_steps,
        layout=str(plan.layout),
        problems=list(verdict.problems),
        slopes=slopes,
    )


def _table(axis: Axis, sizes: Sequence[int], slopes: Sequence[Slope], steps: Sequence[int]) -> Table:
    table = Table(box=None, title=f"slopes over {axis}s {', '.join(map(str, sizes))}", title_justify="left")
    table.add_column("module", no_wrap=True)
    for kind in KINDS:
        for step in steps:
            table.add_column(f"{kind} t={step}", justify="right")
    cells = {(slope.module, slope.kind, slope.step): _cell(slope) for slope in slopes}
    for module in dict.fromkeys(slope.module for slope in slopes):
        table.add_row(module, *(cells[module, kind, step] for kind in KINDS for step in steps))
    return table


def _cell(slope: Slope) -> str:
    text = "none" if slope.value is None else f"{slope.value:+.2f}"
    if not slope.is_judged:
        return f"[dim]({text})[/]"
    if not slope.passed:
        return f"[bold red]{text}[/]"
    return f"[yellow]{text}[/]" if slope.magnitude > TOLERANCES[slope.axis] / 2 else f"[green]{text}[/]"
