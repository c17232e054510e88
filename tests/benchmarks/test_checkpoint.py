"""The benchmark of saves measures every contestant, and its bars can fail."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.checkpoint.__main__ import app
from benchmarks.checkpoint.contestants import CONTESTANTS, OURS
from benchmarks.checkpoint.report import bars

NUMBERS = ("memcpy_s", "stall_s", "first_stall_s", "total_s", "extra_host_bytes", "written_bytes")


def run(out: Path, *options: str) -> tuple[Result, list[dict[str, Any]]]:
    """The end of the benchmark with one round of a tiny state, and the records that it wrote."""
    ended = CliRunner().invoke(app, ["--megabytes", "2", "--rounds", "1", "--out", str(out), *options])
    return ended, [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.long
def test_every_contestant_is_measured_or_its_library_is_missing(tmp_path: Path) -> None:
    ended, records = run(tmp_path / "out.jsonl", "--ranks", "2")
    assert ended.exit_code == 0, ended.output
    header, *saves, summary = records
    assert header["ranks"] == 2
    assert [each["contestant"] for each in saves] == list(CONTESTANTS)
    for each in saves:
        if each["contestant"] == "torch_checkpointing" and "missing" in each:
            continue
        assert all(each.get(name, -1) >= 0 for name in NUMBERS), each
        assert each["stall_s"] <= each["total_s"]
        assert each["written_bytes"] >= each["state_bytes"] == header["state_bytes_of_a_rank"]
    assert [bar["value"] is None for bar in summary["bars"]] == [False, True, False]


@pytest.mark.long
def test_a_planted_slow_copy_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTESTANTS, OURS, "tests.benchmarks.slow_copy:SlowCopy")
    ended, records = run(tmp_path / "out.jsonl", "--ranks", "1", "--only", OURS, "--check")
    assert ended.exit_code == 1, ended.output
    assert [each["type"] for each in records] == ["header", "save", "steps", "summary"]
    assert records[1]["stall_s"] > 1
    assert records[-1]["bars"][0]["passed"] is False


@pytest.mark.parametrize(("share", "passed"), [(1.0, True), (1.3, False)])
def test_each_bar_passes_only_on_the_right_side_of_its_limit(share: float, passed: bool) -> None:
    size = {"state_bytes": 100, "staging_bytes": 100, "extra_host_bytes": 100 * share}
    records = [
        {"type": "save", "contestant": OURS, "stall_s": share, "memcpy_s": 1.0, **size},
        {"type": "steps", "contestant": OURS, "step_while_writing_s": share, "step_s": 1.0},
    ]
    assert [bar.passed for bar in bars(records)] == [passed] * 3
