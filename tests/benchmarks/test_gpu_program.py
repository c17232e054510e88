"""The acceptance program for GPUs from its start to its results file, and that a fault is seen and reported."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.gpu import machine, training
from benchmarks.gpu.__main__ import app
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.checks.elastic import elastic
from benchmarks.gpu.checks.nccl import nccl as measure_links
from benchmarks.gpu.checks.resume import resume
from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.registry import CHECKS, Check

MACHINE = {"gpus": [], "num_gpus": 0, "torch": "2.13.0"}


def context_in(folder: Path, minutes: float = 10.0) -> Context:
    return Context("cpu", 2, "", folder, folder / "data", Budget(time.monotonic(), 60 * minutes))


@pytest.fixture
def run_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, dict[str, Any]]]:
    """Runs the program with the given functions as its checks, and returns how it ended and the results file."""

    def run(*functions: Callable[[Context], dict[str, Any]], minutes: str = "5") -> tuple[Result, dict[str, Any]]:
        checks = [Check(each.__name__, each, needs_s=30, share=0.5, needs_data=False) for each in functions]
        monkeypatch.setattr("benchmarks.gpu.__main__.CHECKS", checks)
        monkeypatch.setattr(machine, "ask", lambda: MACHINE)
        out = tmp_path / "results.json"
        asked = ["--device", "cpu", "--out", str(out), "--folder", str(tmp_path / "work"), "--minutes", minutes]
        return CliRunner().invoke(app, asked), json.loads(out.read_text())

    return run


def passing(context: Context) -> dict[str, Any]:
    context.run("-c", "print('fine')")
    return {"speed_gb_s": 2.5}


def failing(context: Context) -> dict[str, Any]:
    context.run("-c", "import sys; print('the cause'); sys.exit(7)")
    return {}


def differing(context: Context) -> dict[str, Any]:
    raise CheckFailedError("one step differs", {"different_steps": 1})


def broken(context: Context) -> dict[str, Any]:
    return {"speed": 1 / 0}


def interrupted(context: Context) -> dict[str, Any]:
    raise KeyboardInterrupt


RunChecks = Callable[..., tuple[Result, dict[str, Any]]]


def test_a_failing_check_is_in_the_file_and_leads_to_status_1(run_checks: RunChecks) -> None:
    ended, results = run_checks(failing, differing, broken, passing)
    assert ended.exit_code == 1, ended.output
    first, second, third, last = results["checks"]
    assert (first["name"], first["passed"], first["output"]) == ("failing", False, ["the cause"])
    assert "status 7" in first["reason"]
    assert (second["passed"], second["measured"], second["reason"]) == (
        False,
        {"different_steps": 1},
        "one step differs",
    )
    assert (third["passed"], third["reason"]) == (False, "ZeroDivisionError: division by zero")
    assert (last["passed"], last["measured"]) == (True, {"speed_gb_s": 2.5})


def test_checks_that_pass_lead_to_status_0_and_a_complete_file(run_checks: RunChecks) -> None:
    ended, results = run_checks(passing)
    assert ended.exit_code == 0, ended.output
    assert "passing: starts" in ended.output and "passing: passed" in ended.output
    assert {"version", "started", "commit", "device", "num_ranks", "machine", "checks"} <= results.keys()
    (check,) = results["checks"]
    assert check.keys() == {"name", "passed", "status", "seconds", "measured", "reason", "output"}


def test_a_check_without_enough_time_is_not_run_and_leads_to_status_3(run_checks: RunChecks) -> None:
    ended, results = run_checks(passing, minutes="0.1")
    assert ended.exit_code == 3, ended.output
    (check,) = results["checks"]
    assert (check["passed"], check["status"]) == (None, "not run")
    assert "--minutes" in check["reason"]


def test_ctrl_c_keeps_what_was_found(run_checks: RunChecks) -> None:
    ended, results = run_checks(passing, interrupted, passing)
    assert ended.exit_code == 3, ended.output
    assert [check["status"] for check in results["checks"]] == ["passed", "not run", "not run"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda"], ("--device cuda", "nvidia-smi", "--device cpu")),
        (["--only", "speed"], ("--only speed", "throughput")),
        (["--device", "cpu", "--minutes", "0"], ("--minutes 0",)),
        (["--device", "cpu", "--out", "/proc/no/such.json"], ("--out",)),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_change(
    arguments: list[str], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ask", lambda: MACHINE)
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2, ended.output
    assert all(word in ended.output for word in words), ended.output


@pytest.mark.long
def test_the_program_passes_on_two_cpu_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two ranks share the cores with other tests
    out = tmp_path / "results.json"
    asked = ["--device", "cpu", "--minutes", "60", "--out", str(out), "--folder", str(tmp_path / "work")]
    ended = CliRunner().invoke(app, asked)
    assert ended.exit_code == 0, ended.output
    checks = {check["name"]: check for check in json.loads(out.read_text())["checks"]}
    assert list(checks) == [check.name for check in CHECKS]
    assert {name for name, check in checks.items() if not check["passed"]} == {"memory", "nccl"}
    assert checks["verify"]["measured"]["same_trials"] == 2
    assert checks["resume"]["measured"]["bf16_different_steps"] == 0
    assert checks["elastic"]["measured"]["fp32_steps"] == 30
    assert checks["throughput"]["measured"]["tokens_per_s"] > 0
    assert checks["checkpoint"]["measured"]["num_bytes"] > 10**6


@pytest.mark.long
def test_the_rates_of_links_are_measured_and_their_results_are_right(tmp_path: Path) -> None:
    found = measure_links(context_in(tmp_path, minutes=10), 2**20)
    assert found["num_ranks"] == 2
    assert all(found[name]["is_right"] and found[name]["gb_s"] > 0 for name in ("all_reduce", "all_gather"))


@pytest.mark.long
def test_weights_that_a_resume_rounds_to_bf16_are_found_by_both_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path
) -> None:
    with_fault = tmp_path / "with_fault.yaml"
    fault = "plugins: [tests.benchmarks.faults]\ntrain: {callbacks: [rounded_weights]}\n"
    with_fault.write_text(f"extends: {training.SMALL_MODEL}\n{fault}")
    monkeypatch.setattr(training, "SMALL_MODEL", str(with_fault))
    plugins = "plugins=[benchmarks.gpu.plugin,tests.benchmarks.faults]"
    monkeypatch.setattr(
        "benchmarks.gpu.checks.resume.named",
        lambda *names: [plugins, f"train.callbacks=[{','.join((*names, 'rounded_weights'))}]"],
    )
    # The run resumes after step 10, and step 11 computes with rounded weights in any case.
    for check, problem in ((elastic, "fp32: a loss differs"), (resume, "bf16: 29 of 40 steps differ")):
        context = replace(context_in(tmp_path / check.__name__, minutes=30), data=corpus)
        with pytest.raises(CheckFailedError, match=problem):
            check(context)
