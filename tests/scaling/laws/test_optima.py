"""The best settings of a size are predicted from grids at smaller sizes."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tables.optima import app, excesses
from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.laws.optima import fit_optima

SIZES_SV = np.array([[n, n * ratio] for n in (1e8, 2e8, 4e8) for ratio in (20.0, 60.0, 180.0)])
GRID_GH = np.array([[lr, batch] for lr in np.geomspace(1e-4, 1e-2, 9) for batch in np.geomspace(32, 2048, 7)])


def best(size_V: Floats) -> Floats:
    n, d = size_V
    return np.array([1.8 * n**-0.71 * d**0.31, 0.06 * d**0.36])


def grids(noise: float = 0.0) -> tuple[Floats, Floats, Floats]:
    """Losses that rise with a cubic part, as measured ones do, from the optimum of each size."""
    random, sizes, settings, losses = np.random.default_rng(0), [], [], []
    for size_V in SIZES_SV:
        off_GH = np.log(GRID_GH) - np.log(best(size_V))
        excess_G = 0.004 * off_GH[:, 0] ** 2 + 0.003 * off_GH[:, 1] ** 2 - 0.003 * off_GH.prod(axis=1)
        loss_G = (3.0 - 0.03 * np.log(size_V).sum()) * np.exp(excess_G + 3e-4 * off_GH[:, 0] ** 3)
        sizes.append(np.tile(size_V, (len(GRID_GH), 1)))
        settings.append(GRID_GH)
        losses.append(loss_G * np.exp(noise * random.standard_normal(len(GRID_GH))))
    return np.concatenate(sizes), np.concatenate(settings), np.concatenate(losses)


def test_the_best_settings_of_a_larger_size_are_found_in_noise() -> None:
    law = fit_optima(*grids(noise=0.002))
    larger_V = np.array([8e8, 6e10])
    assert law.at(larger_V) == pytest.approx(best(larger_V), rel=0.3)
    assert law.std == pytest.approx(0.002, rel=0.3)


def test_predicted_settings_have_almost_the_lowest_loss() -> None:
    size_RV, setting_RH, loss_R = grids(noise=0.0005)
    found = [excess for *_, excess in excesses(size_RV, setting_RH, loss_R)]
    assert len(found) >= 4 and np.median(found) < 0.002
    # The planted error: the optimum of the largest size is another one, which no smaller size knows.
    is_last_R = (size_RV == SIZES_SV[-1]).all(axis=1)
    moved_R = np.where(is_last_R, loss_R * (1 + 0.03 * np.log(setting_RH[:, 0] / 1e-4)), loss_R)
    assert [excess for *_, excess in excesses(size_RV, setting_RH, moved_R)][-1] > 0.01


def test_grids_that_do_not_show_an_optimum_are_refused_with_what_to_do() -> None:
    size_RV, setting_RH, loss_R = grids()
    one = (size_RV == SIZES_SV[0]).all(axis=1)
    with pytest.raises(ValueError, match="add settings around the best of each size, or sizes that differ"):
        fit_optima(size_RV[one], setting_RH[one], loss_R[one])
    with pytest.raises(ValueError, match="has no minimum in the settings: add larger and smaller values"):
        fit_optima(size_RV, setting_RH, 1.0 / loss_R, near=10.0)


def test_the_command_says_how_far_predicted_settings_are_from_the_best(tmp_path: Path) -> None:
    table = np.column_stack(grids(noise=0.0005))
    path = tmp_path / "grid.csv"
    np.savetxt(path, table, delimiter=",", header="N,D,lr,bs,loss", comments="")
    ended = CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "out.jsonl")])
    assert ended.exit_code == 0, ended.output
    assert '"median_excess"' in (tmp_path / "out.jsonl").read_text()
