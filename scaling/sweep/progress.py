"""The progress of a sweep: a live table on a terminal, a line for each trial elsewhere."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from foretrain.progress import JobProgress
from foretrain.scaling.sweep import summary
from foretrain.scaling.sweep.plan import Trial, shown
from foretrain.scaling.sweep.record import Outcome
from foretrain.scaling.sweep.summary import PointResult

COMMON_WORK = 1e6
"""The fixed cost of a trial, as a number of parameters: tiny models take time too."""


class SweepProgress(JobProgress):
    """Progress of a sweep: the number of trials that have ended, and the best point so far; a context manager."""

    def __init__(self, num_trials: int, console: Console | None = None) -> None:
        """`num_trials`: of all rungs."""
        super().__init__(0, console=console)
        self._num_trials = num_trials
        self._trials: Sequence[Trial] = ()
        self._outcomes: dict[str, Outcome] = {}
        self._num_failed = 0
        self.details = lambda: [best_table(self._trials, self._outcomes)]

    def plan(self, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> None:
        """These are all trials that are planned so far; those with an outcome are done."""
        for trial in trials:
            if trial.key in outcomes and trial.key not in self._outcomes:
                self.skip(work(trial))
        self._trials, self._outcomes = tuple(trials), dict(outcomes)
        # The trials of later rungs are not known yet; on average they cost about as much as these.
        self.total = sum(map(work, trials)) / len(trials) * self._num_trials
        self._update_label()
        done = f", {len(outcomes)} of them are done" if outcomes else ""
        self.say(f"{self._num_trials} trials{done}")

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has an outcome."""
        self._outcomes[trial.key] = outcome
        self.advance(work(trial))
        self._update_label()
        self.log(f"{self._count()}  {trial}: {in_words(outcome)}, {self.time_left()}")

    def fail(self, trial: Trial, why: str) -> None:
        """A trial has no outcome, and will not get one."""
        self._num_failed += 1
        self.skip(work(trial))
        self._update_label()
        self.say(f"{self._count()}  {trial} FAILED ({trial.name}): {why}", style="red")

    def _count(self) -> str:
        return f"{len(self._outcomes) + self._num_failed}/{self._num_trials}"

    def _update_label(self) -> None:
        self.label = f"trials {self._count()}"


def work(trial: Trial) -> float:
    """A rough estimate of the time that a trial takes: parameters times tokens."""
    return (trial.num_params + COMMON_WORK) * trial.config.train.num_tokens


def in_words(outcome: Outcome) -> str:
    """An outcome in words."""
    if outcome.status == "diverged":
        return f"diverged at step {outcome.diverged_at}"
    held_out = f", held out {outcome.val_loss:.4f}" if outcome.val_loss is not None else ""
    return f"loss {outcome.loss:.4f}{held_out}"


def best_table(trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> Table:
    """The best point of each width and depth so far: the value of each axis, and the loss."""
    found = summary.points(trials, outcomes)
    keys = list(trials[0].values) if trials else []
    table = Table("width", "depth", *(f"best {key}" for key in keys), "loss", "held out", "seeds", "diverged", box=None)
    for (width, depth), point in summary.best(found).items():
        here = [each for each in found if each.shape == (width, depth)]
        num_diverged = sum(each.num_diverged for each in here)
        num_trials = num_diverged + sum(len(each.losses) for each in here)
        row = _row(point, keys, trials) if point is not None else ["-"] * (len(keys) + 3)
        table.add_row(str(width), str(depth), *row, f"{num_diverged} of {num_trials}")
    return table


def _row(point: PointResult, keys: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    edges = {key: " (at the edge)" if summary.at_edge(point, key, trials) else "" for key in keys}
    best = [f"{shown(point.values[key])}{edges[key]}" for key in keys]
    spread = f" ± {point.spread / 2:.4f}" if len(point.losses) > 1 else ""
    held_out = "-" if point.val_loss is None else f"{point.val_loss:.4f}"
    return [*best, f"{point.loss:.4f}{spread}", held_out, str(len(point.losses))]
