"""`foretrain coord-check`: what it prints, writes and exits with."""

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from foretrain.configs.load import load
from foretrain.launcher.local import pool
from foretrain.scaling.architecture import architecture
from foretrain.scaling.coord_check import run
from foretrain.verbs.app import app

MUP = ["runs/dry_run", "mup.parametrization=mup", "mup.base.d_model=64"]
SMALL = ["--widths", "64,128,256", "--device", "cpu"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["coord-check", *arguments])


def test_a_sound_config_exits_with_0_and_leaves_a_record_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "checks" / "mup"
    result = invoke(*MUP, *SMALL, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "PASSED: in mup every activation keeps its size over widths" in result.stdout
    assert "blocks.1.mlp.down" in result.stdout and "change t=8" in result.stdout
    assert "3/3  width" in result.stderr and "none left" in result.stderr
    record = json.loads((out / "coord_check.json").read_text())
    assert record["passed"] and record["problems"] == [] and 0 < record["max_slope"] <= 0.2
    assert record["architecture"] == architecture(load(MUP[0], MUP[1:]))
    assert (record["widths"], record["depths"], record["seeds"], record["steps"]) == ([64, 128, 256], [], [0, 1], 8)
    assert record["lr"] == 0.02 / 32 and record["layout"] == "dp=1 tp=1 pp=1 zero=1" and "code" in record
    assert sorted(record["slopes"]["width"]["logits"]["change"]) == ["1", "3", "8"]
    assert (out / "coord_check.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["coord_check.json", "coord_check.png"]


@pytest.mark.long
def test_the_standard_parametrization_exits_with_1_and_says_what_is_wrong(tmp_path: Path) -> None:
    result = invoke("runs/dry_run", *SMALL, "--seeds", "1", "--steps", "1", "--out", str(tmp_path))
    assert result.exit_code == 1, result.output
    assert "look here first: blocks.0.attn.q grows as width^" in result.stdout
    assert "is its initial variance divided by fan-in" in result.stdout
    assert "FAILED: in standard not every activation keeps its size" in result.stdout
    record = json.loads((tmp_path / "coord_check.json").read_text())
    assert not record["passed"] and record["max_slope"] > 1 and record["problems"]


def test_ranks_that_fail_are_a_failure_of_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "check", partial(run.check, target="tests.scaling.coord_check.bugs:ranks_fail"))
    result = invoke(*MUP, *SMALL, "--steps", "1", "--out", str(tmp_path))
    assert result.exit_code == 1, result.output
    says = "width 128, 2 blocks: rank 0 failed: ArithmeticError: a planted failure"
    assert says in result.stdout and says in result.stderr
    assert "nothing was measured" in result.stdout
    assert json.loads((tmp_path / "coord_check.json").read_text())["max_slope"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--widths", "64"], "--widths 64: a slope through fewer than 3 sizes"),
        (["--depths", "2,x"], "--depths 2,x: 'x' is not a size"),
        (["--layout", "tp=3"], "parallel.tp = 3 does not divide"),
        (["--layout", "dp=4096"], "4096 ranks are too many"),
        (["model.vocab=3"], "there is no key model.vocab"),
        (["--out", "pyproject.toml"], "pyproject.toml"),
    ],
)
def test_bad_arguments_exit_with_2_before_a_process_starts(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pool, "started")
    result = invoke(*MUP, "--device", "cpu", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
