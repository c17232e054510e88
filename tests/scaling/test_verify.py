"""`foretrain verify`: what it prints, writes and exits with, and that random layouts have one curve."""

import json
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner, Result

from foretrain.configs.load import load
from foretrain.parallel.layout import Layout
from foretrain.scaling.verify import run
from foretrain.scaling.verify.plan import VerifyPlan, make_plan
from foretrain.scaling.verify.report import progress_of
from foretrain.scaling.verify.verdict import TOLERANCES
from foretrain.verbs.app import app


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments])


@pytest.mark.long
def test_layouts_with_one_curve_exit_with_0_and_leave_a_record(tmp_path: Path) -> None:
    out = tmp_path / "results" / "verify.jsonl"
    named = "dp=2 zero=2,tp=2 cp=2"
    result = invoke("runs/gpt2_124m_a100", "--layouts", named, "--steps", "2", "--precision", "both", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "4 of 4 have the curve of one process" in result.stdout
    for line in ("dp=2 tp=1 pp=1 zero=2 fp32", "dp=1 tp=2 pp=1 cp=2 zero=1 bf16"):
        assert line in result.stdout
    assert "one process first, then 4 trials" in result.stderr
    assert "4/4" in result.stderr and "about" in result.stderr, "progress and the time left"
    header, *records = map(json.loads, out.read_text().splitlines())
    assert header["num_trials"] == len(records) == 4
    assert header["model"]["tie_embeddings"] and header["num_steps"] == 2
    for record in records:
        assert record["passed"] and record["same_weights"] and not record["problems"]
        for what in ("near", "exact"):
            for name, limit in header["tolerance"][record["precision"]][what].items():
                assert 0 <= record[what][name] <= limit


def test_a_layout_with_another_curve_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = partial(run.verify, probe="tests.scaling.faults:loss_over_the_tokens_of_a_rank")
    monkeypatch.setattr(run, "verify", faulty)
    result = invoke("runs/dry_run", "--layouts", "zero=1,dp=2", "--steps", "1")
    assert result.exit_code == 1, result.output
    assert "1 of 2 have the curve of one process" in result.stdout
    assert "dp=2 tp=1 pp=1 zero=1 fp32: loss is off by" in result.stdout
    assert "DIFFERS" in result.stdout and "DIFFERS" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs/dry_run", "--layouts", "tp=3"], "parallel.tp = 3 does not divide model.num_heads = 4"),
        (["runs/dry_run", "--layouts", "tp=2 ep=2"], "'ep=2' in 'tp=2 ep=2' is not understood"),
        (["runs/dry_run", "model.vocab=3"], "there is no key model.vocab"),
        (["runs/dry_run", "--layouts", "dp=4096"], "4096 ranks are too many"),
        (["runs/dry_run", "--layouts", "dp=2", "--out", "pyproject.toml/x"], "pyproject.toml"),
        (["runs/dry_run", "--device", "cuda"], "--device cuda: 4 processes need a GPU each, and torch can use 0 here"),
        (["runs/dry_run", "--precision", "fp16"], "--precision fp16: use one of fp32, bf16, both"),
    ],
)
def test_bad_arguments_exit_with_2_before_a_process_starts(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(run, "call_local")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_refusals_are_counted_by_reason() -> None:
    result = invoke("runs/dry_run", "--show-refused", "--max-processes", "2")
    assert result.exit_code == 0
    assert "56 refused, such as dp=1 tp=1 pp=1 sp zero=0 fp32: parallel.sp = true splits" in result.stdout


def test_the_time_left_counts_processes() -> None:
    plan = make_plan(load("runs/dry_run"), [Layout(), Layout(dp=3)])
    console = Console(file=StringIO(), width=120)
    with progress_of(plan, console) as progress:
        for trial in plan.trials:
            progress.start(trial)
            progress.end(trial, "same", 2.0)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "1/2  dp=1 tp=1 pp=1 zero=1 fp32: same, 2.0 s, about 0:00:00 left"
    assert lines[1] == "2/2  dp=3 tp=1 pp=1 zero=1 fp32: same, 2.0 s, none left"


def test_documents_that_share_a_sample_are_verified_too() -> None:
    config = load("runs/gpt2_124m_a100")
    config = replace(config, data=replace(config.data, packing="best_fit"))
    plan = make_plan(config, [Layout(cp=2)], num_steps=2)
    expected = run.references_of(plan)["fp32"]
    assert run.run_trial(plan, plan.trials[0], expected).problems == ()
    fault = "tests.scaling.faults:documents_seen_as_one"
    assert run.run_trial(plan, plan.trials[0], expected, fault).problems


CONFIGS = [load("runs/dry_run"), load("runs/gpt2_124m_a100"), load("runs/llama_70b_a100")]


@st.composite
def plans_of_one(draw: st.DrawFn) -> VerifyPlan:
    """Any layout that some config allows."""
    config = draw(st.sampled_from(CONFIGS))
    config = replace(config, model=replace(config.model, qk_norm=draw(st.booleans())))
    trial = draw(st.sampled_from(make_plan(config).trials))
    return make_plan(config, [trial.layout], num_steps=2)


@pytest.mark.long
@settings(max_examples=4, deadline=None)
@given(plans_of_one())
def test_any_layout_that_is_not_refused_has_the_curve_of_one_process(plan: VerifyPlan) -> None:
    expected = run.references_of(plan)["fp32"]
    assert run.run_trial(plan, plan.trials[0], expected).problems == ()
    assert min(expected.near.grad_norms) > plan.config.optimizer.clip_norm, "a step that does not clip tests less"


def test_tolerances_leave_room_for_rounding_and_not_for_faults() -> None:
    assert TOLERANCES["fp32"].near.loss > 100 * 2**-24
    assert TOLERANCES["bf16"].near.loss < 2**-8
