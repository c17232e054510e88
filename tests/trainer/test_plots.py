"""The picture of a run: it exists for every run, and its smoothed line is a mean."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.plots import loss_curve, smooth
from tests.trainer.test_metrics import writer

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_run(run_dir: Path, losses: list[float], val_losses: dict[int, float]) -> Path:
    with writer(run_dir) as report:
        for step, loss in enumerate(losses, start=1):
            report.step({"step": step, "tokens": 4096 * step, "loss": loss, "lr": 1e-3})
        for step, val_loss in val_losses.items():
            report.evaluation(step, HeldOutLoss(val_loss))
    return run_dir / METRICS_FILE


@pytest.mark.parametrize(
    ("losses", "val_losses"),
    [
        ([8.0, 7.0, 6.5, 6.0], {0: 8.5, 2: 7.5, 4: 6.5}),
        ([8.0], {}),
        ([8.0, math.inf, math.nan, math.nan], {4: math.nan}),
        ([math.nan], {1: math.nan}),
    ],
    ids=["usual", "one step, never evaluated", "diverged", "never finite"],
)
def test_every_run_has_a_picture(tmp_path: Path, losses: list[float], val_losses: dict[int, float]) -> None:
    png_path = tmp_path / "loss.png"
    loss_curve(write_run(tmp_path, losses, val_losses), png_path, unigram_nats=6.2, title="a run")
    assert png_path.read_bytes().startswith(PNG_SIGNATURE)


def test_drawing_leaves_pyplot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    loss_curve(write_run(tmp_path, [2.0, 1.0], {}), tmp_path / "loss.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_run_without_steps_is_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{METRICS_FILE} holds no training step"):
        loss_curve(write_run(tmp_path, [], {0: 8.0}), tmp_path / "loss.png")


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(1, 20))
def test_smoothing_stays_within_the_values_and_keeps_their_number(values: list[float], width: int) -> None:
    smoothed = smooth(np.array(values), width)
    assert smoothed.shape == (len(values),)
    assert (smoothed >= min(values) - 1e-9).all()
    assert (smoothed <= max(values) + 1e-9).all()


def test_smoothing_is_the_mean_of_the_window_around_a_point() -> None:
    values = np.array([0.0, 3.0, 6.0, 3.0, 9.0])
    assert smooth(values, 3).tolist() == [0.0, 3.0, 4.0, 6.0, 6.0]
    assert smooth(values, 1).tolist() == values.tolist()


def test_smoothing_passes_over_what_is_not_finite() -> None:
    smoothed = smooth(np.array([1.0, math.nan, 3.0, math.inf, math.inf, math.inf]), 3)
    assert smoothed[:4].tolist() == [1.0, 2.0, 3.0, 3.0]
    assert np.isnan(smoothed[4:]).all()
