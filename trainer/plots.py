"""The plot of a run: its losses and its learning rate over the tokens trained."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from foretrain.trainer.prediction.curve import SHOWN_LEVEL, PredictedCurve
from foretrain.trainer.recorded_curve import RecordedCurve

SMOOTHING_SHARE = 0.02
"""Each point of the smoothed line is a mean over this share of the run's steps."""

TRAIN_COLOR, EVAL_COLOR, RATE_COLOR, QUIET_COLOR = "#2563eb", "#ea580c", "#0d9488", "#6b7280"


def loss_curve(
    metrics_path: Path | str,
    png_path: Path | str,
    *,
    unigram_nats: float | None = None,
    title: str = "",
    predicted: PredictedCurve | None = None,
) -> None:
    """Draw the training loss, the held-out loss and the learning rate of a metrics file into a PNG.

    `unigram_nats`, a horizontal line, is the loss of a model that knows only how often each token occurs. `predicted`:
    the curve whose band is drawn behind. Raises ValueError if the file holds no training step.
    """
    curve = RecordedCurve.read(metrics_path)
    if not curve:
        raise ValueError(f"{metrics_path} holds no training step, so there is nothing to draw")
    steps = {name: np.asarray(column) for name, column in curve.steps.items()}
    unit_tokens, unit_name = _unit(steps["tokens"][-1])
    tokens = steps["tokens"] / unit_tokens
    # A record of an evaluation has no token count. The zeros place an evaluation that was made before training.
    eval_tokens = np.interp(np.asarray(curve.evaluated_steps), np.r_[0, steps["step"]], np.r_[0, tokens])

    figure = Figure(figsize=(8, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    loss = steps["loss"]
    if predicted is not None:
        _draw_band(loss_axes, predicted, unit_tokens)
    loss_axes.plot(tokens, loss, color=TRAIN_COLOR, alpha=0.25, linewidth=0.8)
    smoothed = smooth(loss, max(1, round(SMOOTHING_SHARE * len(loss))))
    loss_axes.plot(tokens, smoothed, color=TRAIN_COLOR, linewidth=1.6, label=f"training {curve.final_loss:.2f}")
    if curve.held_out_losses:
        loss_axes.plot(
            eval_tokens,
            np.asarray(curve.held_out_losses),
            "o",
            color=EVAL_COLOR,
            markersize=4,
            clip_on=False,
            label=f"held out {curve.held_out_losses[-1]:.2f}",
        )
    if unigram_nats is not None:
        label = f"unigrams {unigram_nats:.2f}"
        loss_axes.axhline(unigram_nats, color=QUIET_COLOR, linestyle=(0, (4, 3)), linewidth=1, label=label)
    loss_axes.legend(frameon=False, loc="upper right")
    loss_axes.set_ylabel("loss (nats per token)")
    loss_axes.set_title(title, loc="left", fontsize=11)

    rate_axes.plot(tokens, steps["lr"], color=RATE_COLOR, linewidth=1.2)
    rate_axes.set_ylim(bottom=0)
    rate_axes.ticklabel_format(axis="y", scilimits=(-2, 2), useMathText=True)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_xlabel(f"training tokens{unit_name}")
    rate_axes.set_xlim(0, tokens[-1])
    for axes in (loss_axes, rate_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.align_ylabels()
    figure.savefig(png_path)


def _draw_band(axes: Axes, curve: PredictedCurve, unit_tokens: float) -> None:
    tokens, level = curve.middle_tokens() / unit_tokens, f"{100 * float(SHOWN_LEVEL):g} %"
    low, high = np.array(curve.bounds[SHOWN_LEVEL]).T
    axes.fill_between(tokens, low, high, color=QUIET_COLOR, alpha=0.2, linewidth=0, label=f"predicted, {level}")
    axes.plot(tokens, curve.loss, color=QUIET_COLOR, linewidth=1)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Means of up to `width` values around each value: fewer at both ends. Non-finite values are left out.

    The mean is NaN if no value is finite.
    """
    finite = np.isfinite(values)
    sums = np.r_[0, np.cumsum(np.where(finite, values, 0))]
    counts = np.r_[0, np.cumsum(finite)]
    index = np.arange(len(values))
    # A window that is not centred would bend the steep start of a loss curve, but it makes the end steadier.
    before = np.minimum(width // 2, index)
    after = np.minimum(before, len(values) - 1 - index)
    low, high = index - before, index + after + 1
    with np.errstate(invalid="ignore"):
        return (sums[high] - sums[low]) / (counts[high] - counts[low])


def _unit(most_tokens: float) -> tuple[float, str]:
    """The scale of the token axis, and its name for the label of the axis."""
    for unit_tokens, name in ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if most_tokens >= unit_tokens:
            return unit_tokens, f" ({name})"
    return 1.0, ""
