"""What `foretrain eval` shows of its measurements: a table, and the reliability diagram."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from foretrain.printable import printable
from foretrain.trainer.measures.held_out import HeldOutResult


def table(results: Sequence[HeldOutResult]) -> Table:
    """A column for each held-out set."""
    found = Table("", *(printable(each.name) for each in results), title="Evaluation", title_justify="left")
    rows = {
        "loss, nats per token": [_with_error(each) for each in results],
        "bits per byte": ["-" if each.bits_per_byte is None else f"{each.bits_per_byte:.4f}" for each in results],
        "perplexity": [f"{each.perplexity:,.2f}" for each in results],
        "most likely token is right": [f"{each.calibration.accuracy:.2%}" for each in results],
        "calibration error": [f"{each.calibration.expected_error:.2%}" for each in results],
        "tokens": [f"{each.num_tokens:,}" for each in results],
        "samples": [f"{each.loss.num_samples:,}" for each in results],
    }
    for name, cells in rows.items():
        found.add_row(name, *cells)
    return found


def task_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each metric of each task."""
    found = Table("task", "metric", "value", title="Tasks", title_justify="left")
    for task, metrics in scores.items():
        for name, value in metrics.items():
            found.add_row(printable(task), printable(name), f"{value:.4f}")
    return found


def _with_error(each: HeldOutResult) -> str:
    error = each.loss.standard_error
    return f"{each.loss.mean:.4f}" + ("" if error is None else f" ± {error:.4f}")


def reliability_diagram(results: Sequence[HeldOutResult], png_path: Path) -> None:
    """Draw the share of right predictions over the confidence into a PNG, for each held-out set."""
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#6b7280", linewidth=0.8, linestyle="--", label="perfectly calibrated")
    for each in results:
        rows = each.calibration.rows()
        label = f"{printable(each.name)}: error {each.calibration.expected_error:.1%}"
        axes.plot(
            [row["confidence"] for row in rows], [row["accuracy"] for row in rows], "o-", label=label, markersize=4
        )
    axes.set(xlabel="probability of the most likely token", ylabel="how often it is right", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    figure.savefig(png_path)
