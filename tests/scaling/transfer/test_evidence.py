"""Good evidence supports a transfer; each defect that is planted into it is reported, alone, with what to do."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.scaling.transfer.evidence import MAX_RANGE, MAX_SLOPE
from foretrain.scaling.transfer.sweep_folder import RATE
from foretrain.scaling.transfer.transfer import NOT_SUPPORTED
from tests.scaling.transfer.builder import Folder, transferred, valley
from tests.scaling.transfer.defects import COMPLETEP, DEEP, DEFECTS, GOOD, other_axis, shifted


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_named_alone_with_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the corpus of the target must not be there, which `make train` writes
    defect = DEFECTS[name]
    made = transferred(tmp_path, defect.folder, width=defect.width, depth=defect.depth, settings=defect.settings)
    assert made.objections, "nothing is objected"
    named = [objection for objection in made.objections if all(words in objection for words in defect.says)]
    assert len(named) >= 1, made.objections
    others = [line for line in made.objections if line not in named and not any(words in line for words in defect.also)]
    assert others == []
    written = [line for line in made.config.mup.evidence if line.startswith(NOT_SUPPORTED)]
    assert written == [NOT_SUPPORTED + objection for objection in made.objections]


@pytest.mark.parametrize(
    ("made", "of_target"),
    [
        (GOOD, {}),
        (GOOD, {"width": 256}),
        (replace(GOOD, widths=(128,)), {"width": 128}),
        (replace(GOOD, depths=(2, 4), loss=shifted(by_depth=0.5)), {"depth": 4}),
        (DEEP, {"depth": 16, "settings": COMPLETEP}),
        (replace(DEEP, widths=(128,)), {"width": 128, "depth": 16, "settings": COMPLETEP}),
        (replace(GOOD, seeds=(0,)), {}),
        (replace(GOOD, seeds=(0, 1, 2), exponents=[-8 + 0.25 * step for step in range(20)]), {}),
        (replace(GOOD, loss=shifted(by_width=0.1)), {}),
        (replace(GOOD, plan={"search": "random"}, exponents=(-8.3, -7.1, -6.6, -5.3, -4.4, -3.9, -2.8)), {}),
        (GOOD, {"settings": ["train.precision=bf16", "train.seed=7", "parallel.tp=4", "model.name=large"]}),
        (GOOD, {"settings": ["optimizer.lr=0.7"]}),
    ],
    ids=[
        "three widths",
        "a target as wide as the widest",
        "one width and a target as wide",
        "muP, with proxies as deep as the target among others",
        "completep, over widths and depths",
        "completep, over depths alone",
        "one seed",
        "fine rates",
        "a drift that is allowed",
        "random rates",
        "settings that carry over",
        "a rate that is replaced",
    ],
)
def test_good_evidence_supports_a_transfer(made: Folder, of_target: dict[str, Any], tmp_path: Path) -> None:
    found = transferred(tmp_path, made, **of_target)
    assert found.objections == ()
    assert math.log2(found.config.optimizer.lr) == pytest.approx(-5.2, abs=0.12)


def test_all_defects_are_reported_at_once(tmp_path: Path) -> None:
    made = replace(GOOD, loss=shifted(by_width=-1.0), check=None)
    objections = transferred(tmp_path, made, settings=["optimizer.beta2=0.99", "schedule.kind=linear"]).objections
    for words in ("drifts by -1.00", "varies over 2.00", "no coordinate check", "beta2", "schedule.kind"):
        assert any(words in objection for objection in objections), words


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.3, 0.3))
@pytest.mark.long
def test_a_drift_is_accepted_if_and_only_if_its_slope_and_range_are_small(drift: float) -> None:
    with TemporaryDirectory() as folder:
        made = transferred(Path(folder), replace(GOOD, loss=shifted(by_width=drift)))
    (found,) = made.study.drifts
    assert found.slope == pytest.approx(drift, abs=0.01)
    assert found.range == pytest.approx(2 * abs(drift), abs=0.02)
    is_small = abs(found.slope) <= MAX_SLOPE and found.range <= MAX_RANGE
    assert (made.objections == ()) == is_small


def test_the_regret_is_what_the_largest_loses_at_the_rate_of_the_smallest(tmp_path: Path) -> None:
    (drift,) = transferred(tmp_path, replace(GOOD, loss=shifted(by_width=-0.2))).study.drifts
    assert drift.regret == pytest.approx(0.06 * 0.4**2, abs=0.001)
    (drift,) = transferred(tmp_path, replace(GOOD, loss=shifted(by_width=-1.0))).study.drifts
    assert drift.regret == pytest.approx(0.06 * 2**2, rel=0.1)  # between the rates of the grid, beyond the parabola


def test_the_best_value_of_another_axis_is_transferred_with_its_best_rate(tmp_path: Path) -> None:
    def loss(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
        octaves = math.log2(others["model.init_std"] / 0.04)  # the best rate is another one at each value
        return valley(width, depth, log2_lr - 0.5 * octaves, seed, {}) + 0.02 * octaves**2

    made = replace(GOOD, axes={"model.init_std": [0.02, 0.04, 0.08]}, loss=loss, settings=["model.init_std=0.04"])
    found = transferred(tmp_path, made)
    assert found.objections == ()
    assert found.config.model.init_std == 0.04
    assert math.log2(found.config.optimizer.lr) == pytest.approx(-5.2, abs=0.02)
    assert any(
        line.startswith("model.init_std = 0.04: the best of 0.02, 0.04, 0.08") for line in found.config.mup.evidence
    )


def test_zero_weight_decay_is_not_an_edge(tmp_path: Path) -> None:
    best = other_axis("optimizer.weight_decay", {64: 0.0, 128: 0.0, 256: 0.0})
    made = replace(GOOD, axes={"optimizer.weight_decay": [0.0, 0.1]}, loss=best)
    assert transferred(tmp_path, made).objections == ()


def test_trials_on_a_part_of_the_budget_are_ignored(tmp_path: Path) -> None:
    def rungs(record: dict[str, Any]) -> dict[str, Any]:
        if record["values"][RATE] < 2**-7:
            return {**record, "budget_tokens": record["num_tokens"] // 3, "loss": 0.1}
        return record

    found = transferred(tmp_path, replace(GOOD, edit=rungs, plan={"search": "halving"}))
    assert found.objections == ()
    assert found.study.largest.losses_RS.shape == (5, 2)


def test_a_longer_training_is_mentioned_and_not_corrected_for(tmp_path: Path) -> None:
    short, long = transferred(tmp_path, width=256), transferred(tmp_path, width=512)
    assert not [line for line in short.config.mup.evidence if "tokens^-0.32" in line]
    (line,) = (line for line in long.config.mup.evidence if "tokens^-0.32" in line)
    assert line.startswith("not applied: the target trains on 3.86 times the tokens")
    assert long.config.optimizer.lr == short.config.optimizer.lr
