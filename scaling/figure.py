"""The style that all pictures of studies share."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(rows: int, columns: int, *, size: tuple[float, float], dpi: int, **options: Any) -> tuple[Figure, Any]:
    """A figure of `size` inches, and its panels in an array (rows, columns); `options` are those of `subplots`."""
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    panels: np.ndarray = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    return figure, panels


def use_log2_sizes(axes: Axes, sizes: tuple[int, ...] | list[int], **options: Any) -> None:
    """Show sizes of models on the horizontal axis, with a tick at each; `options` are those of the ticks' labels."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=[str(size) for size in sizes], **options)
    axes.minorticks_off()
