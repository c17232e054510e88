"""What a sweep shows: a live table on a terminal, a line for each trial elsewhere, and a table at its end."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foretrain.scaling.sweep import plot, summary
from foretrain.scaling.sweep.plan import Trial, shown
from foretrain.scaling.sweep.record import RESULTS_FILE, TRIALS, Outcome
from foretrain.scaling.sweep.run import Sweep
from foretrain.scaling.sweep.summary import Spot
from foretrain.trainer.exit_status import EXIT_DONE, EXIT_FAILED
from foretrain.trainer.progress import format_duration

COMMON_WORK = 1e6
"""What every trial costs beyond its size, as if its model had so many parameters more: tiny ones are not free."""


class Display:
    """Shows how far a sweep has come; a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        """`total`: trials of all rungs."""
        self._console = console or Console(stderr=True)
        self._total = total
        self._trials: Sequence[Trial] = ()
        self._outcomes: dict[str, Outcome] = {}
        self._num_failed = 0
        self._work_done = 0.0
        self._started_s = time.monotonic()
        self._live: Live | None = None
        if self._console.is_interactive and self._console.file.isatty():
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def wave(self, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> None:
        """These trials are all that are planned so far; those with an outcome are done."""
        self._trials, self._outcomes = tuple(trials), dict(outcomes)
        done = f", {len(outcomes)} of them are done" if outcomes else ""
        self._say(f"{self._total} trials{done}")

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has an outcome."""
        self._outcomes[trial.key] = outcome
        self._work_done += work(trial)
        if not self._live:
            self._say(f"{self._count()}  {trial}: {told(outcome)}, {self._left()}")

    def failed(self, trial: Trial, why: str) -> None:
        """A trial has none, and will have none."""
        self._num_failed += 1
        self._say(f"{self._count()}  {trial} FAILED ({trial.name}): {why}", style="red")

    def _count(self) -> str:
        return f"{len(self._outcomes) + self._num_failed}/{self._total}"

    def _left(self) -> str:
        num_left = self._total - len(self._outcomes) - self._num_failed
        if num_left <= 0:
            return "the last"
        if not self._work_done:
            return f"{num_left} left"
        planned = [work(trial) for trial in self._trials if trial.key not in self._outcomes]
        later = max(0, num_left - len(planned))  # of rungs that are not planned yet: about as long as these
        mean = sum(map(work, self._trials)) / len(self._trials)
        speed = self._work_done / (time.monotonic() - self._started_s)
        return f"about {format_duration((sum(planned) + later * mean) / speed)} left"

    def _render(self) -> Group:
        num_done = len(self._outcomes) + self._num_failed
        bar = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None):
            bar.add_column(ratio=ratio, no_wrap=True)
        gone = f"{format_duration(time.monotonic() - self._started_s)} gone, {self._left()}"
        bar.add_row(f"trials {self._count()}", ProgressBar(self._total, num_done), Text(gone, style="dim"))
        return Group(bar, best_table(self._trials, self._outcomes))

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True, style=style)


def print_end(sweep: Sweep, status: int, console: Console) -> None:
    """What the sweep has found, what failed, and how to go on; draws the picture."""
    table = best_table(sweep.trials, sweep.outcomes)
    if table.row_count:
        console.print(table)
        console.print("Losses are means over seeds, ± half of what lies between the best and the worst.", style="dim")
    lines = [f"{sweep.out / RESULTS_FILE}: {len(sweep.outcomes)} of {sweep.plan.num_trials} trials"]
    if plot.draw(summary.spots(sweep.trials, sweep.outcomes), sweep.out / plot.PLOT_FILE):
        lines.append(f"{sweep.out / plot.PLOT_FILE}: their losses")
    if sweep.num_others:
        lines.append(f"{sweep.num_others} trials of other sweeps stay in {sweep.out / TRIALS}, and are no part of this")
    if sweep.failures:
        lines.append(f"{len(sweep.failures)} trials FAILED: {', '.join(trial.name for trial in sweep.failures)}")
    if status not in (EXIT_DONE, EXIT_FAILED):
        after = "the trials go on, and the same command joins them" if sweep.goes_on else "the same command goes on"
        lines.append(f"stopped: {after}")
    elif sweep.failures:
        lines.append("the same command tries them again")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def work(trial: Trial) -> float:
    """What a trial costs, to compare it with others: parameters times tokens."""
    return (trial.num_params + COMMON_WORK) * trial.config.train.num_tokens


def told(outcome: Outcome) -> str:
    """An outcome in words."""
    if outcome.status == "diverged":
        return f"diverged at step {outcome.diverged_at}"
    held_out = f", held out {outcome.val_loss:.4f}" if outcome.val_loss is not None else ""
    return f"loss {outcome.loss:.4f}{held_out}"


def best_table(trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> Table:
    """The best point of each width and depth so far: the value of each axis, and the loss."""
    found = summary.spots(trials, outcomes)
    keys = list(trials[0].values) if trials else []
    table = Table("width", "depth", *(f"best {key}" for key in keys), "loss", "held out", "seeds", "diverged", box=None)
    for (width, depth), spot in summary.best(found).items():
        here = [each for each in found if each.shape == (width, depth)]
        num_diverged = sum(each.num_diverged for each in here)
        num_trials = num_diverged + sum(len(each.losses) for each in here)
        row = _row(spot, keys, trials) if spot is not None else ["-"] * (len(keys) + 3)
        table.add_row(str(width), str(depth), *row, f"{num_diverged} of {num_trials}")
    return table


def _row(spot: Spot, keys: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    best = [shown(spot.values[key]) + (" (at the edge)" if summary.at_edge(spot, key, trials) else "") for key in keys]
    spread = f" ± {spot.spread / 2:.4f}" if len(spot.losses) > 1 else ""
    held_out = "-" if spot.val_loss is None else f"{spot.val_loss:.4f}"
    return [*best, f"{spot.loss:.4f}{spread}", held_out, str(len(spot.losses))]
