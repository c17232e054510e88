"""The picture of a sweep: loss against the learning rate, a line for each width, a panel for each depth."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from foretrain.scaling.figure import new_figure
from foretrain.scaling.sweep.summary import PointResult, is_number

PLOT_FILE = "loss.png"
PREFERRED = "optimizer.lr"
"""The setting on the horizontal axis, if it was swept; else the first setting whose values are numbers."""
MAX_ABOVE = 4.0
"""The picture reaches this many times as far above the best loss as the median does: bad points hide nothing."""
MAX_IN_A_ROW = 3


Line = tuple[str, Any, list[PointResult]]
"""The label, the color and the points of one width or depth."""


def draw(points: Sequence[PointResult], png_path: Path) -> bool:
    """Draw the points of a sweep into a PNG; return whether there was anything to draw.

    A line is the mean over seeds, and the band behind it shows the best and the worst seed. A ring marks its best
    point. A cross on the upper edge marks a point at which a seed diverged.
    """
    key = _horizontal(points)
    losses = [point.loss for point in points if math.isfinite(point.loss)]
    if key is None or not losses:
        return False
    panels = _panels(points, key)
    columns = len(panels) if len(panels) <= MAX_IN_A_ROW else math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    size = 1.2 + 4.8 * columns, 0.8 + 3.6 * rows
    figure, panels_RC = new_figure(rows, columns, size=size, dpi=150, sharex=True, sharey=True)
    grid = panels_RC.flatten()
    low, high = min(losses), min(losses) + MAX_ABOVE * max(median(losses) - min(losses), 0.01)
    _scale(grid[0], low, min(high, max(losses)), is_log=all(_x(point, key) > 0 for point in points))
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for line in lines:
            _draw_line(axes, *line, key)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(key)
        axes.tick_params(labelbottom=True)
    for first in range(0, len(panels), columns):
        grid[first].set_ylabel("training loss (nats per token)")
    for axes in grid[len(panels) :]:
        axes.remove()
    grid[0].legend(frameon=False, fontsize=9)
    figure.savefig(png_path)
    return True


def _horizontal(points: Sequence[PointResult]) -> str | None:
    swept = points[0].values if points else ()
    keys = [key for key in swept if all(is_number(point.values[key]) for point in points)]
    return PREFERRED if PREFERRED in keys else next(iter(keys), None)


def _x(point: PointResult, key: str) -> float:
    value = point.values[key]
    assert is_number(value)
    return float(value)


def _panels(points: Sequence[PointResult], key: str) -> dict[str, list[Line]]:
    """The lines of each panel, by its title: a panel for each depth, unless only depths differ."""
    widths, depths = (sorted({point.shape[axis] for point in points}) for axis in (0, 1))
    only_depths = len(widths) == 1 and len(depths) > 1
    sizes, axis, name = (depths, 1, "depth") if only_depths else (widths, 0, "width")
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(sizes)))
    titles = {f"width {widths[0]}": depths} if only_depths else {f"depth {depth}": [depth] for depth in depths}
    panels: dict[str, list[Line]] = {title: [] for title in titles}
    for title, of in titles.items():
        for size, color in zip(sizes, colors, strict=True):
            here = [point for point in points if point.shape[axis] == size and point.shape[1] in of]
            panels[title].append((f"{name} {size}", color, here))
    return panels


def _draw_line(axes: Axes, label: str, color: Any, points: Sequence[PointResult], key: str) -> None:
    """Draw a line through these points: at each x through the best of further axes."""
    by_x: dict[float, PointResult] = {}
    for point in points:
        at = _x(point, key)
        by_x[at] = min(by_x.get(at, point), point, key=lambda each: each.loss)
    x = np.array(sorted(by_x))
    best_points = [by_x[at] for at in sorted(by_x)]
    mean = np.array([point.loss for point in best_points])
    finite = np.isfinite(mean)
    low, high = (
        np.array([extreme(point.losses) if point.losses else math.nan for point in best_points])
        for extreme in (min, max)
    )
    shown = np.where(finite, mean, np.nan)
    axes.plot(x, shown, "o-", color=color, markersize=3.5, linewidth=1.4, label=label)
    axes.fill_between(x, low, high, where=finite, color=color, alpha=0.15, linewidth=0)
    if finite.any():
        best = int(np.argmin(np.where(finite, mean, np.inf)))
        axes.plot(x[best], mean[best], "o", color=color, markersize=10, fillstyle="none", markeredgewidth=1.4)
    if not finite.all():
        top = np.full((~finite).sum(), axes.get_ylim()[1])
        axes.plot(x[~finite], top, "x", color=color, markersize=6, clip_on=False)


def _scale(axes: Axes, low: float, high: float, *, is_log: bool) -> None:
    margin = 0.06 * max(high - low, 0.01)
    axes.set_ylim(low - margin, high + margin)
    if is_log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
