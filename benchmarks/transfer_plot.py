"""The picture of the transfer studies: loss against learning rate for each model, one panel for each study."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foretrain.scaling.transfer.study import Study


def plot(studies: Mapping[str, Study], path: Path) -> None:
    """Draw all studies, by title, into a PNG, with the optimum of each model."""
    num_columns = min(2, len(studies))
    num_rows = -(-len(studies) // num_columns)
    figure = Figure(figsize=(5.2 * num_columns, 3.6 * num_rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, (title, study) in zip(panels, studies.items(), strict=False):
        _panel(axes, title, study)
    for axes in panels[len(studies) :]:
        axes.set_visible(False)
    figure.savefig(path)


def _panel(axes: Axes, title: str, study: Study) -> None:
    along = "d_model" if len({fit.size.d_model for fit in study.fits}) > 1 else "num_layers"
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(study.fits)))
    for color, fit in zip(colors, study.fits, strict=True):
        means = np.where(np.isfinite(fit.means), fit.means, np.nan)
        axes.plot(fit.log2_lrs, means, "o-", color=color, markersize=3, linewidth=1, label=getattr(fit.size, along))
        if fit.optimum is not None:
            axes.plot(fit.optimum.log2_lr, fit.optimum.loss, "*", color=color, markersize=11, markeredgecolor="black")
    best = [fit.optimum.loss for fit in study.fits if fit.optimum is not None]
    if best:
        axes.set_ylim(min(best) - 0.05, max(best) + 0.6)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("log2 learning rate")
    axes.set_ylabel("loss (nats per token)")
    axes.legend(title="width" if along == "d_model" else "layers", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
