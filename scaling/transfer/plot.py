"""The picture of a transfer: the valleys of the proxies with their parabolas, and the best rate against size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from foretrain.scaling.figure import new_figure, use_log2_sizes
from foretrain.scaling.transfer.evidence import MAX_RANGE
from foretrain.scaling.transfer.study import Axis, Fit, Study

PLOT_FILE = "transfer.png"
BAND_COLOR, VALUE_COLOR = "#e5e7eb", "#ea580c"


def plot(study: Study, png_path: Path) -> None:
    """Draw a row for each depth: losses over log2 LR, and the best rates over width. With one width, draw one row."""
    widths = sorted({fit.size.d_model for fit in study.fits})
    along: Axis = "d_model" if len(widths) > 1 else "num_layers"
    fixed: Axis = "num_layers" if along == "d_model" else "d_model"
    rows = sorted({getattr(fit.size, fixed) for fit in study.fits})
    figure, grid = new_figure(len(rows), 2, size=(9.5, 0.6 + 3.2 * len(rows)), dpi=130, width_ratios=(3, 2))
    for at, (valleys, optima) in zip(rows, grid, strict=True):
        fits = [fit for fit in study.fits if getattr(fit.size, fixed) == at]
        colors = colormaps["viridis"](np.linspace(0, 0.85, len(fits)))
        for fit, color in zip(fits, colors, strict=True):
            _valley(valleys, fit, color, f"{along} = {getattr(fit.size, along)}")
        valleys.set_title(f"{fixed} = {at}", loc="left", fontsize=10)
        valleys.set_xlabel(r"$\log_2$ learning rate")
        valleys.set_ylabel("loss (nats per token)")
        valleys.legend(frameon=False, fontsize=8)
        _optima(optima, fits, along, study.largest.best_log2_lr)
    figure.savefig(png_path, format="png")


def _valley(axes: Axes, fit: Fit, color: np.ndarray, label: str) -> None:
    if not fit.log2_lrs:
        return
    shown = np.where(np.isfinite(fit.means), fit.means, np.nan)
    seeds = np.where(np.isfinite(fit.losses_RS), fit.losses_RS, np.nan)
    axes.plot(fit.log2_lrs, seeds, ".", color=color, alpha=0.35, markersize=4)
    axes.plot(fit.log2_lrs, shown, "o", color=color, markersize=4, label=label)
    if fit.optimum is not None:
        x = np.linspace(fit.optimum.low, fit.optimum.high, 100)
        axes.plot(x, [fit.optimum.loss_at(each) for each in x], color=color, linewidth=1.4)
        axes.plot(fit.optimum.log2_lr, fit.optimum.loss, "*", color=color, markersize=11, markeredgecolor="white")


def _optima(axes: Axes, fits: Sequence[Fit], along: Axis, carried: float) -> None:
    found = [(getattr(fit.size, along), fit.optimum) for fit in fits if fit.optimum is not None]
    sizes = sorted(getattr(fit.size, along) for fit in fits)
    axes.axhspan(carried - MAX_RANGE / 2, carried + MAX_RANGE / 2, color=BAND_COLOR, zorder=0)
    axes.axhline(carried, color=VALUE_COLOR, linewidth=1, label="transferred")
    if found:
        x, optima = zip(*sorted(found, key=lambda pair: pair[0]), strict=True)
        y, errors = [each.log2_lr for each in optima], [each.uncertainty for each in optima]
        axes.errorbar(x, y, yerr=errors, fmt="o-", color="#2563eb", capsize=3, linewidth=1.2)
    use_log2_sizes(axes, sizes)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, carried - 1), max(high, carried + 1))  # so that noise does not look like a drift
    axes.set_xlabel(along)
    axes.set_ylabel(r"best $\log_2$ learning rate")
    axes.legend(frameon=False, fontsize=8)
