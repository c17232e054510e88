"""The progress of a sweep: the best points so far."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from foretrain.scaling.sweep import summary
from foretrain.scaling.sweep.summary import PointResult
from foretrain.scaling.trials.progress import TrialProgress
from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.trial import Trial, shown


class SweepProgress(TrialProgress):
    """Progress of a sweep: the number of trials that have ended, and the best point so far; a context manager."""

    def __init__(self, num_trials: int, console: Console | None = None) -> None:
        """`num_trials`: of all rungs."""
        super().__init__(num_trials, best_table, console)


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
