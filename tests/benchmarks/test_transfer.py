"""The benchmark of transfer in its short form: rates hold over widths under muP, and do not without it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cli import ROOT


def test_the_best_rate_stays_under_mup_and_falls_with_width_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.transfer", "--short", "--jobs", "1"]
    command += ["--out", str(tmp_path), "--work", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    studies = {each["study"]: each for each in json.loads((tmp_path / "summary.json").read_text())["studies"]}
    assert abs(studies["mup_width"]["slope"]) <= 0.15
    assert studies["standard_width"]["slope"] <= -0.7
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
