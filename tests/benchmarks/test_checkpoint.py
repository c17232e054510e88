"""The benchmark of saves measures every contestant, and its bars can fail."""

import json
import os
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmarks.checkpoint.__main__ import app
from benchmarks.checkpoint.contestants import CONTESTANTS, OURS
from benchmarks.checkpoint.gate import Gate
from benchmarks.checkpoint.pairs import SAVED, ratio, slowdown
from benchmarks.checkpoint.report import Bar, bars

NUMBERS = ("memcpy_s", "stall_s", "first_stall_s", "total_s", "extra_host_bytes", "written_bytes")


def run(out: Path, *options: str) -> tuple[Result, list[dict[str, Any]]]:
    """The end of the benchmark with one round of a tiny state, and the records that it wrote."""
    ended = CliRunner().invoke(app, ["--megabytes", "2", "--rounds", "1", "--out", str(out), *options])
    return ended, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.long
def test_every_contestant_is_measured_or_its_library_is_missing(tmp_path: Path) -> None:
    ended, records = run(tmp_path / "out.jsonl", "--ranks", "2", "--pairs", "2")
    assert ended.exit_code == 0, ended.output
    header, *saves, steps, summary = records
    assert header["ranks"] == 2
    assert len(steps["beside_s"]) == len(steps["kind"]) >= 2
    assert [each["contestant"] for each in saves] == list(CONTESTANTS)
    for each in saves:
        if each["contestant"] == "torch_checkpointing" and "missing" in each:
            continue
        assert all(each.get(name, -1) >= 0 for name in NUMBERS), each
        assert each["stall_s"] <= each["total_s"]
        assert each["written_bytes"] >= each["state_bytes"] == header["state_bytes_of_a_rank"]
    has_spare_core = (os.cpu_count() or 1) > 2  # without one, the steps count for no bar
    assert [bar["value"] is None for bar in summary["bars"]] == [False, not has_spare_core, False]


@pytest.mark.long
def test_a_planted_slow_copy_and_steps_that_a_save_slows_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTESTANTS, OURS, "tests.benchmarks.slow_copy:SlowCopy")
    ended, records = run(tmp_path / "out.jsonl", "--ranks", "1", "--only", OURS, "--pairs", "12", "--check")
    assert ended.exit_code == 1, ended.output
    assert [each["type"] for each in records] == ["header", "save", "steps", "summary"]
    assert records[1]["stall_s"] > 1
    assert [bar["passed"] for bar in records[-1]["bars"][:2]] == [False, False]
    steps = records[2]
    written = {
        side: [each for each, kind in zip(steps[f"{side}_written_bytes"], steps["kind"], strict=True) if kind in SAVED]
        for side in ("beside", "without")
    }
    assert sum(written["beside"]) > 0
    assert not any(written["without"])


@pytest.mark.parametrize(("share", "passed"), [(1.0, True), (1.3, False)])
def test_each_bar_passes_only_on_the_right_side_of_its_limit(share: float, passed: bool) -> None:
    size = {"state_bytes": 100, "staging_bytes": 100, "extra_host_bytes": 100 * share}
    records: list[dict[str, Any]] = [
        {"type": "save", "contestant": OURS, "stall_s": share, "memcpy_s": 1.0, **size},
        {"type": "steps", "contestant": OURS, "kind": ["writing"] * 3, "beside_s": [share] * 3, "without_s": [1.0] * 3},
    ]
    assert [bar.passed for bar in bars(records)] == [passed] * 3


def test_a_bar_is_undecided_while_its_limit_is_inside_the_interval() -> None:
    undecided = Bar("steps", 1.01, 1.02, 0.99, 1.03)
    assert (undecided.passed, undecided.verdict) == (None, "undecided")
    assert Bar("steps", 1.01, 1.02, 1.0, 1.02).passed is True
    assert Bar("steps", 1.05, 1.02, 1.03, 1.06).passed is False


def test_noise_that_both_steps_of_a_pair_have_does_not_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    slow = random.uniform(1.0, 1.5, 400)  # the machine, from pair to pair
    beside, without = (factor * slow * random.normal(1.0, 0.001, 400) for factor in (1.01, 1.0))
    paired = ratio(beside.tolist(), without.tolist())
    shuffled = ratio(beside.tolist(), random.permutation(without).tolist())
    assert paired is not None and shuffled is not None
    assert paired.low < 1.01 < paired.high
    assert paired.high - paired.low < 0.001 < shuffled.high - shuffled.low


def test_the_interval_has_the_true_ratio_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    sizes = [random.normal(mean, 0.1, (60, 100)).tolist() for mean in (1.02, 1.0)]
    found = [ratio(beside, without) for beside, without in zip(*sizes, strict=True)]
    assert 50 <= sum(each is not None and each.low <= 1.02 <= each.high for each in found) <= 60


def test_only_kinds_of_pairs_that_are_asked_for_count() -> None:
    record = {"type": "steps", "kind": ["begin", "bare"], "beside_s": [1.5, 3.0], "without_s": [1.0, 1.0]}
    found = slowdown([record])
    assert found is not None
    assert (found.value, found.num_pairs) == (1.5, 1)


def test_a_writer_does_nothing_behind_a_closed_gate_and_the_gate_knows_when_it_has_left() -> None:
    gate = Gate()
    done: list[int] = []

    def write() -> None:
        for piece in range(5):
            done.append(piece)
            gate.arrive()

    gate.open_for_a_save()
    write()
    gate.end_first()  # a save has 5 pieces
    gate.open_for_a_save()
    gate_is_closed = []
    writer = Thread(target=write, daemon=True)
    writer.start()
    while gate.close():
        gate_is_closed.append(len(done))
        time.sleep(0.01)
        assert len(done) == gate_is_closed[-1]
        gate.open()
    writer.join(timeout=60)
    assert not writer.is_alive()
    assert len(done) == 10
