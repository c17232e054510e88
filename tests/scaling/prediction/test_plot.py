"""The pictures of fits and tallies show what they say."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from foretrain.scaling.prediction.fit import evidence_of
from foretrain.scaling.prediction.plot import optimal_params, plot_fit, plot_tally
from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
from foretrain.scaling.prediction.table import RunTable, read_table
from foretrain.scaling.prediction.tally import Scored, scored_of


def table(tmp_path: Path, law: str) -> RunTable:
    """Runs of a law of N and D with a noise of 0.3 %."""
    random = np.random.default_rng(0)
    rows = ["N,D,loss"]
    for params in np.geomspace(1e6, 1e8, 5):
        for ratio in (5, 20, 80):
            loss = 1.8 + 480 / params**0.35 + 2000 / (ratio * params) ** 0.37
            rows.append(f"{params:.0f},{ratio * params:.0f},{loss * np.exp(0.003 * random.standard_normal()):.6f}")
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows) + "\n")
    return read_table([path], law)


@pytest.mark.parametrize("law", ["chinchilla", "compute"])
def test_a_fit_is_drawn_with_a_panel_more_for_a_law_of_n_and_d(law: str, tmp_path: Path) -> None:
    runs = table(tmp_path, law)
    plot_fit(runs, evidence_of(runs), tmp_path / "fit.png")
    assert imread(tmp_path / "fit.png").shape[1] == {"chinchilla": 1680, "compute": 1140}[law]


def test_the_compute_optimal_size_has_the_least_loss_of_its_compute(tmp_path: Path) -> None:
    evidence = evidence_of(table(tmp_path, "chinchilla"))
    compute = np.array([1e15, 1e17])
    found = optimal_params(evidence, compute)
    for best, flops in zip(found, compute, strict=True):
        params = best * np.exp(np.linspace(-2, 2, 401))
        losses = evidence.fit.loss(np.stack([params, flops / (6 * params)], axis=1))
        assert params[losses.argmin()] == pytest.approx(best, rel=0.006)


def a_scored(error: float, *, inside: bool) -> Scored:
    return Scored("a", 40.0, error, 0.04, (error - 0.02, error + 0.02), {"0.9": inside}, {"largest_run": 0.2})


def test_a_miss_has_another_color_in_the_tally(tmp_path: Path) -> None:
    for name, inside in (("hit", True), ("miss", False)):
        plot_tally([a_scored(0.01, inside=inside)], tmp_path / f"{name}.png")
    hit, miss = (imread(tmp_path / f"{name}.png")[..., :3] for name in ("hit", "miss"))
    assert (hit != miss).any()
    red = np.array([0xDC, 0x26, 0x26]) / 255
    assert np.isclose(miss, red, atol=0.01).all(axis=-1).any()
    assert not np.isclose(hit, red, atol=0.01).all(axis=-1).any()


def test_the_drawn_interval_is_relative_to_the_measured_loss() -> None:
    prediction = PredictionRecord(
        target={}, loss=2.0, intervals={"0.9": [1.9, 2.1]}, mean_intervals={}, ratio=50.0, fit={}
    )
    score = ScoreRecord(
        prediction="", run="", measured=2.5, error=-0.2, inside={"0.9": False}, baseline_errors={}, problems=[]
    )
    assert scored_of("a", prediction, score).interval == pytest.approx((1.9 / 2.5 - 1, 2.1 / 2.5 - 1))
