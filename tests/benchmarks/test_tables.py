"""Runs of a table are predicted from smaller ones alone, and the results say how that went."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tables.__main__ import app
from benchmarks.tables.predictions import predictions
from benchmarks.tables.report import BEGIN, END, in_document, merged
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.fit import evidence_of, fit_record
from foretrain.scaling.prediction.predict import predict
from foretrain.scaling.prediction.table import read_facts, read_table
from foretrain.scaling.prediction.target import target_of_numbers
from tests.cli import ROOT

RESULTS = ROOT / "benchmarks/results/tables.jsonl"
PUBLISHED = ROOT / "benchmarks/tables/published"


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
    assert [replace(each, residual=None) for each in again[:-1]] == [
        replace(each, residual=None) for each in found[:-1]
    ]
    assert found[-1].residual is not None and again[-1].residual is not None
    assert abs(again[-1].residual) > 10 * abs(found[-1].residual)
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


def test_the_document_shows_the_committed_results() -> None:
    records, document = merged(RESULTS, []), Path(ROOT, "docs/prediction.md").read_text()
    assert in_document(document, records) == document
    for mark in (BEGIN, END):
        with pytest.raises(ValueError, match="has no place for the table"):
            in_document(document.replace(mark, ""), records)
    other = document.replace(f"{BEGIN}\n\n|", f"{BEGIN}\n\n|x")
    assert other != document
    assert in_document(other, records) == document


def test_the_intervals_of_tables_hold_as_many_losses_as_they_say() -> None:
    found = {(each["table"], each["ratio"]): each for each in merged(RESULTS, [])}
    for ratio in (30.0, 100.0):
        large = found["chinchilla_points", ratio]
        assert large["inside_0.9"] >= 0.85
        assert large["median_error"] < 0.25 * large["median_error_of_power_law"]
        for table in ("gadre_rpj", "gadre_c4_original", "gadre_rw_original"):
            small = found[table, ratio]
            assert small["inside_0.9"] >= 0.85
            assert small["median_error"] < 0.4 * small["median_error_of_power_law"]


def test_the_committed_results_are_those_of_the_code() -> None:
    ended = CliRunner().invoke(app, [str(PUBLISHED / "cerebras_gpt.csv"), "--ratio", "100"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout.splitlines()[-1])
    (record,) = (each for each in merged(RESULTS, []) if (each["table"], each["ratio"]) == ("cerebras_gpt", 100.0))
    assert found.keys() == record.keys()
    numbers = {name: value for name, value in record.items() if isinstance(value, float)}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=0.05)


def test_results_replace_those_of_the_same_table_and_keep_others(tmp_path: Path) -> None:
    out, key = tmp_path / "out.jsonl", {"ratio": 30.0, "lowest": False}
    out.write_text("".join(f"{json.dumps({'table': name, **key, 'targets': 1})}\n" for name in "ab"))
    found = merged(out, [{"table": "b", **key, "targets": 2}, {"table": "c", **key, "targets": 3}])
    assert [(each["table"], each["targets"]) for each in found] == [("a", 1), ("b", 2), ("c", 3)]


def test_a_column_with_another_loss_can_be_named(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("C,loss,smooth loss\n1e15,3.0,3.5\n2e15,2.9,3.4\n")
    assert [run.loss for run in read_facts([table], "smooth loss")[0]] == [3.5, 3.4]
    assert [run.loss for run in read_facts([table])[0]] == [3.0, 2.9]
    assert "has no other" in read_facts([table], "other")[1][0]


@pytest.mark.parametrize(("num_models", "is_predicted"), [(3, False), (4, True), (5, True)])
def test_the_13b_model_of_cerebras_gpt_is_in_the_interval_from_models_up_to_1_3b_and_2_7b_and_refused_from_590m_down(
    num_models: int, is_predicted: bool, tmp_path: Path
) -> None:
    lines = (PUBLISHED / "cerebras_gpt.csv").read_text().splitlines()
    runs = tmp_path / "runs.csv"
    runs.write_text("\n".join(lines[: 1 + num_models]) + "\n")
    params, tokens, flops, measured = map(float, lines[-1].split(","))
    table = read_table([runs], "compute")
    record = fit_record(table, evidence_of(table))
    target = target_of_numbers(params, tokens, flops)
    if not is_predicted:
        with pytest.raises(ValueError, match="do not support this prediction"):
            predict(record, "", target)
        return
    found = predict(record, "", target)
    for low, high in found.intervals.values():
        assert low <= measured <= high
