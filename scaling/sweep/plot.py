"""The picture of a sweep: loss against the learning rate, a line for each width, a panel for each depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from foretrain.scaling.sweep.summary import Spot, is_number

PLOT_FILE = "loss.png"
PREFERRED = "optimizer.lr"
"""The axis that lies along the horizontal one, if it is one of the axes; else the first that has an order."""
QUIET_COLOR = "#6b7280"
MAX_ABOVE = 4.0
"""So many times as high as half of the points reach above the best, the picture does: a few bad ones hide nothing."""
MAX_IN_A_ROW = 3


@dataclass(frozen=True)
class Line:
    """Points of one shape."""

    label: str
    color: Any
    x: list[float]
    spots: list[Spot]
    """By x; of further axes the best."""


def draw(spots: Sequence[Spot], png_path: Path) -> bool:
    """Draw the points of a sweep into a PNG; return whether there was anything to draw.

    A line is the mean over seeds, the band behind it reaches from the best seed to the worst, and its best point is
    ringed. A cross on the upper edge is a point where a seed diverged.
    """
    key = _horizontal(spots)
    losses = [spot.loss for spot in spots if math.isfinite(spot.loss)]
    if key is None or not losses:
        return False
    panels = _panels(spots, key)
    columns = len(panels) if len(panels) <= MAX_IN_A_ROW else math.ceil(math.sqrt(len(panels)))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 4.8 * columns, 0.8 + 3.6 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    low, high = min(losses), min(losses) + MAX_ABOVE * max(median(losses) - min(losses), 0.01)
    _scale(grid[0], low, min(high, max(losses)), is_log=_is_log(spots, key))
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for line in lines:
            _draw_line(axes, line)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(key)
        axes.tick_params(labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    for first in range(0, len(panels), columns):
        grid[first].set_ylabel("training loss (nats per token)")
    for axes in grid[len(panels) :]:
        axes.remove()
    grid[0].legend(frameon=False, fontsize=9)
    figure.savefig(png_path)
    return True


def _horizontal(spots: Sequence[Spot]) -> str | None:
    keys = [key for key in (spots[0].values if spots else ()) if all(is_number(spot.values[key]) for spot in spots)]
    return PREFERRED if PREFERRED in keys else next(iter(keys), None)


def _is_log(spots: Sequence[Spot], key: str) -> bool:
    return all(_x(spot, key) > 0 for spot in spots)


def _x(spot: Spot, key: str) -> float:
    value = spot.values[key]
    assert is_number(value)
    return float(value)


def _panels(spots: Sequence[Spot], key: str) -> dict[str, list[Line]]:
    """The lines of each panel, by its title: one for each depth, unless only depths differ."""
    widths, depths = (sorted({spot.shape[axis] for spot in spots}) for axis in (0, 1))
    only_depths = len(widths) == 1 and len(depths) > 1
    sizes, axis, name = (depths, 1, "depth") if only_depths else (widths, 0, "width")
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(sizes)))
    titles = {f"width {widths[0]}": depths} if only_depths else {f"depth {depth}": [depth] for depth in depths}
    panels: dict[str, list[Line]] = {title: [] for title in titles}
    for title, of in titles.items():
        for size, color in zip(sizes, colors, strict=True):
            here = [spot for spot in spots if spot.shape[axis] == size and spot.shape[1] in of]
            panels[title].append(_line(f"{name} {size}", color, here, key))
    return panels


def _line(label: str, color: Any, spots: Sequence[Spot], key: str) -> Line:
    """The best over further axes, for each x."""
    by_x: dict[float, Spot] = {}
    for spot in spots:
        x = _x(spot, key)
        by_x[x] = min(by_x.get(x, spot), spot, key=lambda each: each.loss)
    ordered = sorted(by_x)
    return Line(label, color, ordered, [by_x[x] for x in ordered])


def _draw_line(axes: Axes, line: Line) -> None:
    mean = np.array([spot.loss for spot in line.spots])
    finite = np.isfinite(mean)
    low, high = (
        np.array([extreme(spot.losses) if spot.losses else math.nan for spot in line.spots]) for extreme in (min, max)
    )
    x = np.array(line.x)
    shown = np.where(finite, mean, np.nan)
    axes.plot(x, shown, "o-", color=line.color, markersize=3.5, linewidth=1.4, label=line.label)
    axes.fill_between(x, low, high, where=finite, color=line.color, alpha=0.15, linewidth=0)
    if finite.any():
        best = int(np.argmin(np.where(finite, mean, np.inf)))
        axes.plot(x[best], mean[best], "o", color=line.color, markersize=10, fillstyle="none", markeredgewidth=1.4)
    if not finite.all():
        top = np.full((~finite).sum(), axes.get_ylim()[1])
        axes.plot(x[~finite], top, "x", color=line.color, markersize=6, clip_on=False)


def _scale(axes: Axes, low: float, high: float, *, is_log: bool) -> None:
    margin = 0.06 * max(high - low, 0.01)
    axes.set_ylim(low - margin, high + margin)
    if is_log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
