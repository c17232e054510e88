"""What a verification shows and writes: progress, a table of verdicts, JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from foretrain.progress import print_line
from foretrain.scaling.console import StudyProgress, console_for_tables
from foretrain.scaling.verify.plan import LayoutTrial, VerifyPlan
from foretrain.scaling.verify.verdict import TOLERANCES, LayoutVerdict


def progress_of(plan: VerifyPlan, console: Console | None = None) -> StudyProgress[LayoutTrial]:
    """The progress of a verification. The ranks of a trial share the machine's cores, so its time grows with them."""
    return StudyProgress(plan.trials, lambda trial: 1 + trial.layout.world_size, console)


def print_verdicts(verdicts: Sequence[LayoutVerdict]) -> None:
    """Print a table with a row for each trial, and what was wrong with those that failed."""
    console = console_for_tables()
    table = Table("layout", "loss", "grad norm", "float64", "same start", "verdict", box=None)
    table.columns[0].no_wrap = True
    for verdict in verdicts:
        same_start = "yes" if verdict.same_weights else "no"
        color = "green" if verdict.passed else "bold red"
        table.add_row(str(verdict.trial), *_numbers(verdict), same_start, f"[{color}]{verdict.summary}[/]")
    console.print(table)
    console.print(
        "Numbers are the largest relative differences of any step: of loss and gradient norm from one process in the "
        "same precision, and of either from one process in float64.",
        style="dim",
    )
    for verdict in verdicts:
        for problem in verdict.problems:
            print_line(f"{verdict.trial}: {problem}", console=console, style="red")
    num_passed = sum(verdict.passed for verdict in verdicts)
    console.print(f"{num_passed} of {len(verdicts)} have the curve of one process", highlight=False)


def print_refused(plan: VerifyPlan) -> None:
    """Print each reason why layouts are refused, the number of layouts and one of them; the most frequent first."""
    refused: dict[str, list[LayoutTrial]] = {}
    for trial, reasons in plan.refused:
        for reason in reasons.splitlines():
            refused.setdefault(reason, []).append(trial)
    for reason, trials in sorted(refused.items(), key=lambda item: -len(item[1])):
        print_line(f"{len(trials):5} refused, such as {trials[0]}: {reason}", console=console_for_tables())


def write_jsonl(path: Path, plan: VerifyPlan, verdicts: Sequence[LayoutVerdict]) -> None:
    """Write one line about the plan, then one for each verdict."""
    lines = [_header(plan), *map(_record, verdicts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _header(plan: VerifyPlan) -> dict[str, Any]:
    sections = {name: asdict(getattr(plan.config, name)) for name in ("model", "optimizer", "train")}
    precisions = sorted({trial.precision for trial in plan.trials})
    return {
        "num_steps": plan.num_steps,
        "num_trials": len(plan.trials),
        "num_refused": len(plan.refused),
        "tolerance": {precision: asdict(TOLERANCES[precision]) for precision in precisions},
        **sections,
    }


def _record(verdict: LayoutVerdict) -> dict[str, Any]:
    layout, precision = str(verdict.trial.layout), verdict.trial.precision
    record = {"layout": layout, "precision": precision, "passed": verdict.passed, **asdict(verdict)}
    del record["trial"]
    return {**record, "wall_s": round(verdict.wall_s, 2)}


def _numbers(verdict: LayoutVerdict) -> Sequence[str]:
    if verdict.near is None or verdict.exact is None:
        return "-", "-", "-"
    differences = verdict.near.loss, verdict.near.grad_norm, max(verdict.exact.loss, verdict.exact.grad_norm)
    return [f"{difference:.1e}" for difference in differences]
