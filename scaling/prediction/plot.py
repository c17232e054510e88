"""The pictures of a fit, of isoFLOP curves, and of a tally."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from foretrain.scaling.figure import new_figure
from foretrain.scaling.laws.evidence import Evidence
from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.metric import label_of
from foretrain.scaling.prediction.table import RunTable
from foretrain.scaling.prediction.tally import Scored

BAND_COLOR, LAW_COLOR, RUN_COLOR, MISS_COLOR = "#dbeafe", "#2563eb", "#111827", "#dc2626"
LEVEL = 0.9
NUM_POINTS = 25
"""Sizes at which a law and its band are computed."""
NUM_ISO = 5
"""Amounts of compute with an isoFLOP curve."""
ISO_WIDTH = 1.4
"""Runs are drawn with an isoFLOP curve if their compute is within this factor of its own."""


def plot_fit(table: RunTable, evidence: Evidence, png_path: Path) -> None:
    """Draw the runs with their law, its band beyond the largest, and the distances from it.

    A law of N and D is drawn along the sizes that it calls compute-optimal, with isoFLOP curves beside it.
    """
    has_sizes = set(table.form.variables) == {"N", "D"}
    figure, panels = new_figure(1, 3 if has_sizes else 2, size=(14.0 if has_sizes else 9.5, 4.0), dpi=120)
    law, *middle, rest = panels[0]
    _law(law, table, evidence)
    for axes in middle:
        _iso_flops(axes, table, evidence)
    _distances(rest, table, evidence)
    figure.savefig(png_path, format="png")


def plot_tally(scored: Sequence[Scored], png_path: Path) -> None:
    """Draw each prediction's interval around the measured loss against its extrapolation, with simpler rules."""
    figure, panels = new_figure(1, 1, size=(8.0, 4.5), dpi=120)
    axes: Axes = panels[0, 0]
    axes.axhline(0.0, color=RUN_COLOR, linewidth=1, label="measured loss")
    for each in scored:
        color = LAW_COLOR if each.inside.get(f"{LEVEL:g}", False) else MISS_COLOR
        low, high = (100 * end for end in each.interval)
        axes.plot([each.ratio, each.ratio], [low, high], color=color, linewidth=3, alpha=0.35, solid_capstyle="butt")
        axes.plot(each.ratio, 100 * each.error, "o", color=color, markersize=4)
    markers = dict(zip(dict.fromkeys(name for each in scored for name in each.baseline_errors), "x+12", strict=False))
    for name, marker in markers.items():
        known = [each for each in scored if name in each.baseline_errors]
        errors = [100 * each.baseline_errors[name] for each in known]
        axes.plot([each.ratio for each in known], errors, marker, color="#9ca3af", label=name.replace("_", " "))
    axes.set_xscale("log")
    axes.set_xlabel("compute of the run over that of the largest run of the fit")
    axes.set_ylabel(f"predicted over measured loss, minus 1 (%), {100 * LEVEL:g} % interval")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(png_path, format="png")


def optimal_params(evidence: Evidence, compute_N: Floats) -> Floats:
    """The N of the least loss for amounts of compute C = 6 N D, by a law of N and D (arXiv 2203.15556, equation 4)."""
    values = evidence.fit.values
    a, b, alpha, beta = (values[name] for name in ("A", "B", "alpha", "beta"))
    scale = (alpha * a / (beta * b)) ** (1.0 / (alpha + beta))
    return np.asarray(scale * (compute_N / 6.0) ** (beta / (alpha + beta)))


def _law(axes: Axes, table: RunTable, evidence: Evidence) -> None:
    """The loss of the runs and of the law against compute."""
    low, high = evidence.compute_range
    compute_N = np.geomspace(low, high * min(evidence.reach, 100.0), NUM_POINTS)
    if "C" in table.form.variables:
        x_NV, label = compute_N[:, None], table.form.formula
    else:
        params_N = optimal_params(evidence, compute_N)
        x_NV, label = _sizes(table, params_N, compute_N), f"{table.form.formula}, compute-optimal"
    found = [evidence.predict(x_V) for x_V in x_NV]
    ends = np.array([(each.interval(LEVEL).low, each.interval(LEVEL).high) for each in found])
    axes.fill_between(compute_N, ends[:, 0], ends[:, 1], color=BAND_COLOR, label=f"{100 * LEVEL:g} % of single runs")
    axes.plot(compute_N, [each.loss for each in found], color=LAW_COLOR, linewidth=1.5, label=label)
    axes.plot(table.compute, table.losses, "o", color=RUN_COLOR, markersize=3, alpha=0.7)
    axes.axvline(high, color="#9ca3af", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_ylim(0.95 * min(min(table.losses), found[-1].loss), 1.05 * max(table.losses))
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel(label_of(table.metric))
    axes.legend(frameon=False, fontsize=8)


def _iso_flops(axes: Axes, table: RunTable, evidence: Evidence) -> None:
    """The loss against N at amounts of compute, with the least of each, and the runs near to them."""
    compute_R, params_R = table.compute, table.variables[:, table.form.variables.index("N")]
    levels = np.exp(np.quantile(np.log(compute_R), np.linspace(0.1, 0.9, NUM_ISO)))
    params_N = np.geomspace(params_R.min() / 1.5, params_R.max() * 1.5, 120)
    for compute, color in zip(levels, colormaps["viridis"](np.linspace(0, 0.85, NUM_ISO)), strict=True):
        near_R = np.abs(np.log(compute_R / compute)) < np.log(ISO_WIDTH)
        x_NV = _sizes(table, params_N, np.full_like(params_N, compute))
        axes.plot(params_N, evidence.fit.loss(x_NV), color=color, linewidth=1.3, label=f"{compute:.1e} FLOPs")
        axes.plot(params_R[near_R], table.losses[near_R], "o", color=color, markersize=3)
        best = optimal_params(evidence, np.array([compute]))
        axes.plot(best, evidence.fit.loss(_sizes(table, best, np.array([compute]))), "*", color=color, markersize=10)
    axes.set_xscale("log")
    axes.set_ylim(0.97 * min(table.losses), 1.03 * max(table.losses))
    axes.set_xlabel("N (parameters)")
    axes.set_ylabel(label_of(table.metric))
    axes.legend(frameon=False, fontsize=8)


def _distances(axes: Axes, table: RunTable, evidence: Evidence) -> None:
    """How far each run is from the law, beside the noise of a run."""
    distance_R = 100 * (np.log(table.losses) - np.log(evidence.fit.loss(table.variables)))
    noise = 100 * evidence.run_std
    if np.isfinite(noise):
        axes.axhspan(-noise, noise, color=BAND_COLOR, zorder=0, label="noise of one run")
        axes.legend(frameon=False, fontsize=8)
    axes.axhline(0.0, color=LAW_COLOR, linewidth=1)
    axes.plot(table.compute, distance_R, "o", color=RUN_COLOR, markersize=3, alpha=0.7)
    axes.set_xscale("log")
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("measured minus law (%)")


def _sizes(table: RunTable, params_N: Floats, compute_N: Floats) -> Floats:
    """Variables of a law of N and D at C = 6 N D (points, 2)."""
    columns = {"N": params_N, "D": compute_N / (6.0 * params_N)}
    return np.stack([columns[name] for name in table.form.variables], axis=1)
