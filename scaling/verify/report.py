"""What a verification shows and writes: progress, a table of verdicts, JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table

from foretrain.scaling.console import WorkBar, console_for_tables
from foretrain.scaling.verify.plan import Plan, Trial
from foretrain.scaling.verify.verdict import TOLERANCES, Verdict


class Display(WorkBar):
    """Shows how far the trials have come."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        super().__init__(len(plan.trials), sum(map(_work, plan.trials)), console)
        self._num_started = 0
        self.describe("one process")

    def __enter__(self) -> Self:
        super().__enter__()
        self.say(f"one process first, then {self._num_models} trials")
        return self

    def start(self, trial: Trial) -> None:
        """A trial begins."""
        self.describe(str(trial))
        if self._num_started == 0:
            self.restart_clock()
        self._num_started += 1

    def done(self, verdict: Verdict) -> None:
        """A trial has ended."""
        self.advance(_work(verdict.trial), f"{verdict.trial}: {_result(verdict)}, {verdict.wall_s:.1f} s")


def print_verdicts(verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """A table with a row for each trial, and what was wrong with those that failed."""
    console = console or console_for_tables()
    table = Table("layout", "loss", "grad norm", "float64", "same start", "verdict", box=None)
    table.columns[0].no_wrap = True
    for verdict in verdicts:
        same_start = "yes" if verdict.same_weights else "no"
        color = "green" if verdict.passed else "bold red"
        table.add_row(str(verdict.trial), *_numbers(verdict), same_start, f"[{color}]{_result(verdict)}[/]")
    console.print(table)
    console.print(
        "Numbers are the largest relative differences of any step: of loss and gradient norm from one process in the "
        "same precision, and of either from one process in float64.",
        style="dim",
    )
    for verdict in verdicts:
        for problem in verdict.problems:
            console.print(f"{verdict.trial}: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
    num_passed = sum(verdict.passed for verdict in verdicts)
    console.print(f"{num_passed} of {len(verdicts)} have the curve of one process", highlight=False)


def print_refused(plan: Plan, console: Console | None = None) -> None:
    """Each reason why layouts are refused, how many it refuses, and the first of them; the most frequent first."""
    console = console or console_for_tables()
    refused: dict[str, list[Trial]] = {}
    for trial, reasons in plan.refused:
        for reason in reasons.splitlines():
            refused.setdefault(reason, []).append(trial)
    for reason, trials in sorted(refused.items(), key=lambda item: -len(item[1])):
        text = f"{len(trials):5} refused, as {trials[0]}: {reason}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def write_jsonl(path: Path, plan: Plan, verdicts: Sequence[Verdict]) -> None:
    """One line that says what was run, then one for each verdict."""
    lines = [_header(plan), *map(_record, verdicts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _header(plan: Plan) -> dict[str, Any]:
    sections = {name: asdict(getattr(plan.config, name)) for name in ("model", "optimizer", "train")}
    precisions = sorted({trial.precision for trial in plan.trials})
    return {
        "num_steps": plan.num_steps,
        "num_trials": len(plan.trials),
        "num_refused": len(plan.refused),
        "tolerance": {precision: asdict(TOLERANCES[precision]) for precision in precisions},
        **sections,
    }


def _record(verdict: Verdict) -> dict[str, Any]:
    return {
        "layout": str(verdict.trial.layout),
        "precision": verdict.trial.precision,
        "passed": verdict.passed,
        "near": None if verdict.near is None else asdict(verdict.near),
        "exact": None if verdict.exact is None else asdict(verdict.exact),
        "same_weights": verdict.same_weights,
        "problems": verdict.problems,
        "wall_s": round(verdict.wall_s, 2),
    }


def _work(trial: Trial) -> int:
    """A trial's share of the time: its ranks share the machine's cores."""
    return 1 + trial.layout.world_size


def _result(verdict: Verdict) -> str:
    return "same" if verdict.passed else "DIFFERS"


def _numbers(verdict: Verdict) -> Sequence[str]:
    if verdict.near is None or verdict.exact is None:
        return "-", "-", "-"
    differences = verdict.near.loss, verdict.near.grad_norm, max(verdict.exact.loss, verdict.exact.grad_norm)
    return [f"{difference:.1e}" for difference in differences]
