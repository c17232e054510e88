"""The short form of the transfer benchmark: the best rate is stable over widths under muP, and not without it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.transfer import app


@pytest.mark.long
def test_the_best_rate_stays_under_mup_and_falls_with_width_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # one core is enough beside other tests
    ended = CliRunner().invoke(app, ["--short", "--jobs", "1", "--out", str(tmp_path), "--work", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    studies = {each["study"]: each for each in json.loads((tmp_path / "summary.json").read_text())["studies"]}
    assert abs(studies["mup_width"]["slope"]) <= 0.15
    assert studies["standard_width"]["slope"] <= -0.7
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
