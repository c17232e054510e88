"""The benchmark of scale: its costs, its bars, and the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.scale import points as of_points
from benchmarks.scale.__main__ import app, merged
from benchmarks.scale.points import (
    ALL_SIZES,
    BASE_OF_RANKS,
    CHECKPOINT,
    OF_RANKS,
    RANKS,
    SMALL,
    STEPS,
    WIDTH,
    points,
    with_seq_len,
)
from benchmarks.scale.report import bars, cost, costs, is_passed
from benchmarks.train.document import scale_section
from foretrain.parallel.layout import Layout


def record(axis: str, name: str, number: int, **more: Any) -> dict[str, Any]:
    """The record of a point in a round."""
    shape = {"ranks": 1, "num_cores": 2, "tokens_per_step": 1000, "flops_per_token": 1e6, "bytes": 2**30, "place": 0}
    common = {"type": "point", "axis": axis, "point": name, "round": number, "is_base": False, "limit": None}
    return {**common, **shape, "load_before": 0.0, **more}


def test_the_cost_of_ranks_counts_the_cores_that_they_have() -> None:
    times = {"step_s": [2.0, 1.0, 9.0]}
    assert cost(record(RANKS, "tp=2", 0, ranks=2, **times)) == pytest.approx(2 * 2.0 / 1000 * 1e6)
    assert cost(record(RANKS, "tp=4", 0, ranks=4, **times)) == pytest.approx(2 * 2.0 / 1000 * 1e6)
    assert cost(record(WIDTH, "64", 0, **times)) == pytest.approx(2.0 / 1000 / 1e6 * 1e12)
    assert cost(record(CHECKPOINT, "64", 0, save_s=[3.0, 1.0, 2.0])) == pytest.approx(2.0)
    assert cost(record(STEPS, "40", 0, first_bytes=100, last_bytes=103)) == pytest.approx(1.03)


@pytest.mark.parametrize(("step_s", "verdict"), [(0.6, "passed"), (0.63, "FAILED")])
def test_a_layout_is_compared_with_one_process_in_the_same_round(step_s: float, verdict: str) -> None:
    records = []
    for number in range(8):
        slower = 1 + number  # the machine, in this round
        base = {"is_base": True, "step_s": [slower]}
        records.append(record(RANKS, BASE_OF_RANKS, number, **base))
        two = {"ranks": 2, "step_s": [step_s * slower], "limit": OF_RANKS, "place": 1}
        records.append(record(RANKS, "tp=2", number, **two))
    (bar,) = bars(records)
    assert bar.value == pytest.approx(2 * step_s)
    assert bar.verdict == verdict


def test_a_point_that_failed_has_no_cost_and_its_bar_is_not_passed() -> None:
    records = [record(RANKS, "tp=2", 0, limit=OF_RANKS, failed="a rank ended")]
    assert costs(records) == {}
    assert [bar.passed for bar in bars(records)] == [None]
    assert not is_passed(bars(records))


def test_the_check_fails_if_no_point_has_a_bar() -> None:
    kept = [record(STEPS, "40", number, limit=1.05, first_bytes=100, last_bytes=100) for number in range(8)]
    assert is_passed(bars(kept))
    assert not is_passed(bars([each | {"limit": None} for each in kept]))


def test_of_several_ranks_the_slowest_counts_and_seconds_of_cpu_are_summed() -> None:
    ranks = [{"step_s": [1.0, 2.0], "cpu_s": 3.0, "host_peak_bytes": 5}]
    ranks.append({"step_s": [2.0, 1.0], "cpu_s": 4.0, "host_peak_bytes": 4})
    assert merged(ranks) == {"step_s": [2.0, 2.0], "cpu_s": 7.0, "host_peak_bytes": 5}


def test_every_point_has_a_legal_config_and_each_axis_one_base() -> None:
    for sizes in ALL_SIZES.values():
        every = list(points(sizes, num_cores=2))
        assert len({(point.axis, point.name) for point in every}) == len(every)
        for axis in {point.axis for point in every} - {STEPS}:
            assert sum(point.is_base for point in every if point.axis == axis) == 1
        for point in every:
            config = point.config(Path())
            assert Layout.from_config(config.parallel).num_microbatches(config.train) >= 1
        limited = {point.name for point in every if point.axis == RANKS and point.limit}
        assert {"dp=2", "tp=2"} <= limited
        assert not any("4" in name for name in limited)
    assert {"dp=2", "tp=2", "pp=2"} <= {point.name for point in points(SMALL, num_cores=2)}
    assert with_seq_len(SMALL.base, 1024).tokens_per_step == SMALL.base.tokens_per_step


@pytest.mark.long
def test_the_command_measures_layouts_checkpoints_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_points, "LAYOUTS", {"tp=2": {"tp": 2}})
    tiny = ALL_SIZES["tiny"]
    monkeypatch.setitem(ALL_SIZES, "tiny", replace(tiny, checkpoint_widths=(64,)))
    out = tmp_path / "scale.jsonl"
    axes = [option for axis in (RANKS, CHECKPOINT, STEPS) for option in ("--axis", axis)]
    asked = ["--size", "tiny", "--rounds", "1", "--steps", "2", *axes, "--out", str(out), "--check"]
    ended = CliRunner().invoke(app, asked)
    assert ended.exit_code == 1, ended.output  # one round decides nothing
    header, *records, summary = map(json.loads, out.read_text().splitlines())
    assert header["size"] == "tiny"
    assert {each["point"] for each in records} == {BASE_OF_RANKS, "tp=2", "64", str(tiny.num_steps)}
    assert not any("failed" in each for each in records)
    assert all(cost(each) > 0 for each in records)
    assert {bar["verdict"] for bar in summary["bars"]} == {"undecided"}
    assert f"| {RANKS} | tp=2 |" in scale_section(out)
