"""Runs of a table are predicted from smaller ones alone, and the results say how that went."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tables.__main__ import app
from benchmarks.tables.predictions import predictions
from foretrain.scaling.laws.runs import RunFacts


def runs(noise: float = 0.002) -> list[RunFacts]:
    random = np.random.default_rng(0)
    return [
        RunFacts(
            name=f"{flops:g}", loss=float((1.8 + 1000 / flops**0.18) * np.exp(noise * random.normal())), flops=flops
        )
        for flops in np.geomspace(1e15, 1e19, 13).tolist()
    ]


def test_a_run_is_predicted_from_runs_with_at_most_a_part_of_its_compute() -> None:
    known = runs()
    found = list(predictions(known, 30.0, lowest=False))
    made = [each for each in found if not each.refused]
    assert made and all(each.ratio >= 30.0 for each in made)
    assert np.median([abs(each.error) for each in made]) < 0.03
    # The planted error: a target with another loss changes its own error, and nothing else.
    changed = [*known[:-1], RunFacts(name="last", loss=2 * known[-1].loss, flops=known[-1].flops)]
    again = list(predictions(changed, 30.0, lowest=False))
    assert again[:-1] == found[:-1]
    assert again[-1].error == pytest.approx((1 + found[-1].error) / 2 - 1)


def test_the_results_count_what_is_refused_apart(tmp_path: Path) -> None:
    table, out = tmp_path / "runs.csv", tmp_path / "out.jsonl"
    table.write_text("C,loss\n" + "".join(f"{run.flops},{run.loss}\n" for run in runs()))
    ended = CliRunner().invoke(app, [str(table), "--ratio", "8", "--ratio", "1e6", "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    some, none = map(json.loads, out.read_text().splitlines())
    assert some["refused"] > 0 and some["predicted"] + some["refused"] == some["targets"]
    assert 0.0 <= some["inside_0.8"] <= some["inside_0.9"] <= some["inside_0.95"] <= 1.0
    assert none["targets"] == 0
