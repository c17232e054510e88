"""The picture of a coordinate check: statistics against width or depth. Level lines are good."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from foretrain.scaling.coord_check.judge import KINDS, Measured, Slope, values_of
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Ladder, Rung
from foretrain.scaling.coord_check.verdict import CoordCheckVerdict
from foretrain.scaling.figure import new_figure, use_log2_sizes

COLORS = ("#94a3b8", "#60a5fa", "#2563eb", "#1e3a8a")
"""Colors of the steps: one hue that darkens."""
NUM_COLUMNS = 8
"""Panels in a row: more would be too small to read on a page."""
GOOD_COLOR, BAD_COLOR = "#111827", "#dc2626"


def plot(
    plan: CoordCheckPlan, measured: Mapping[Rung, Sequence[Measured]], verdict: CoordCheckVerdict, png_path: Path
) -> None:
    """Draw a panel for each statistic and kind of module, as PNG; of each kind, the module with the steepest slope."""
    ladders = [ladder for ladder in plan.ladders if any(slope.axis == ladder.axis for slope in verdict.slopes)]
    roles = list(dict.fromkeys(_role(slope.module) for slope in verdict.slopes))
    parts = [roles[start : start + NUM_COLUMNS] for start in range(0, len(roles), NUM_COLUMNS)]
    rows = [(ladder, part, kind) for ladder in ladders for part in parts for kind in KINDS]
    if not rows:
        return
    num_columns = len(parts[0])
    figure, grid = new_figure(len(rows), num_columns, size=(1 + 1.9 * num_columns, 0.8 + 2.1 * len(rows)), dpi=110)
    for (ladder, part, kind), panels in zip(rows, grid, strict=True):
        for axes in panels[len(part) :]:
            axes.set_visible(False)
        for role, axes in zip(part, panels, strict=False):
            slopes = [s for s in verdict.slopes if (s.axis, s.kind, _role(s.module)) == (ladder.axis, kind, role)]
            worst = max(slopes, key=lambda slope: (slope.is_judged, slope.magnitude))
            steps = (0, *plan.judged_steps) if kind == "size" else plan.judged_steps
            _panel(axes, ladder, measured, worst, steps)
        panels[0].set_ylabel("mean |x|" if kind == "size" else r"RMS($x_t - x_0$)")
    handles = {line.get_label(): line for line in grid[0][0].get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    name = plan.config.mup.parametrization
    title = f"{name}: {'passed' if verdict.passed else 'FAILED'} (learning rate {plan.lr:g}, level lines are good)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(png_path, format="png")


def _panel(
    axes: Axes, ladder: Ladder, measured: Mapping[Rung, Sequence[Measured]], worst: Slope, steps: Iterable[int]
) -> None:
    seen = []
    for number, step in enumerate(steps, start=0 if worst.kind == "size" else 1):
        values = values_of(ladder, measured, worst.module, worst.kind, step)
        seen += [value for value in values if 0 < value < float("inf")]
        color = COLORS[min(number, len(COLORS) - 1)]
        axes.plot(ladder.sizes, values, "o-", color=color, markersize=2.5, linewidth=1.2, label=f"step {step}")
    use_log2_sizes(axes, ladder.sizes, fontsize=6)
    axes.set_yscale("log", base=2)
    axes.minorticks_off()
    if seen:  # at least four octaves high, so that noise does not look like a slope
        axes.set_ylim(min(min(seen) / 1.3, max(seen) / 16), max(max(seen) * 1.3, min(seen) * 4))
    axes.tick_params(axis="y", labelsize=6)
    axes.set_xlabel(ladder.axis, fontsize=7)
    value = "no slope" if worst.value is None else f"{worst.value:+.2f}"
    color = GOOD_COLOR if worst.passed else BAD_COLOR
    axes.set_title(f"{worst.module}\n{value} at step {worst.step}", fontsize=7, color=color)


def _role(module: str) -> str:
    return re.sub(r"^blocks\.\w+", "block", module)
