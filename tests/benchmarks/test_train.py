"""The benchmark of training compares what computes the same, its bars can fail, and its document shows its results."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.checkpoint.report import Bar
from benchmarks.train import report
from benchmarks.train.__main__ import app
from benchmarks.train.agreement import NUM_CHECKED, TOLERANCES, Start, refusal
from benchmarks.train.contestants import BARE, CONTESTANTS, ENGINE, TRAINER, Contestant
from benchmarks.train.document import DOCUMENT, RESULTS, read, text_of, train_files
from benchmarks.train.ratios import MIN_ROUNDS, ratio, records_of
from tests.cli import ROOT

START = Start([6.0, 5.9, 5.8, 5.7, 5.6], [1.0, 1.1, None, 1.2, 1.3], initial_norm=20.0, final_norm=20.1)
HEADER = {"tokens_per_step": 128, "flops_per_token": 1e6, "peak_tflops": None}


def rounds_of(name: str, times: list[float], **more: Any) -> list[dict[str, Any]]:
    """The records of a contestant whose steps take these times in the rounds."""
    start = {
        "type": "start",
        "session": 0,
        "contestant": name,
        "first_step_s": 3.0,
        "ready_s": 2.0,
        "largest_difference": 0.0,
    }
    measured = {"cpu_s": 1.0, "host_peak_bytes": 2**20, "load_before": 0.5, **more}
    return [
        start,
        *(
            {"type": "round", "contestant": name, "session": number % 2, "round": number, "step_s": [s, s, 9 * s]}
            | measured
            for number, s in enumerate(times)
        ),
    ]


# ---- agreement ----


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"initial_norm": 20.001}, "initial weights"),
        ({"losses": [6.0, 5.9, 5.801, 5.7, 5.6]}, "loss of step 3"),
        ({"losses": [6.0, 5.9, math.nan, 5.7, 5.6]}, "loss of step 3"),
        ({"grad_norms": [1.0, 1.1, 1.1, 1.2, 2.6]}, "gradients of step 5"),
        ({"grad_norms": [None] * NUM_CHECKED}, None),
        ({"final_norm": 20.11}, "weights after step 5"),
        ({"threads": 2}, "2 threads"),
    ],
)
def test_a_contestant_that_computes_something_else_is_refused(change: dict[str, Any], reason: str | None) -> None:
    found = refusal(replace(START, **change), START, "fp32")
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_rounding_is_tolerated_and_more_of_it_in_bf16() -> None:
    rounded = replace(START, losses=[loss * 1.001 for loss in START.losses])
    assert refusal(rounded, START, "fp32") is not None
    assert refusal(rounded, START, "bf16") is None
    assert all(value < 0.1 for tolerance in TOLERANCES.values() for value in vars(tolerance).values())


# ---- statistics ----


def test_a_ratio_is_that_of_the_same_rounds_and_one_bad_round_does_not_move_it() -> None:
    others = [1.0, 2.0, 1.0, 4.0, 1.0, 1.0, 3.0, 1.0, 1.0]
    times = [1.1 * each for each in others]
    times[4] *= 50
    found = ratio(times, others)
    assert found is not None
    assert found.value == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1)
    assert found.num_pairs == len(others)


def test_the_interval_of_a_ratio_is_wider_if_rounds_differ_more() -> None:
    calm, noisy = (ratio([1 + share * (number % 5) for number in range(20)], [1.0] * 20) for share in (0.01, 0.1))
    assert calm is not None and noisy is not None
    assert calm.low <= calm.value <= calm.high
    assert noisy.high - noisy.low > 5 * (calm.high - calm.low)


def test_the_interval_counts_that_one_process_differs_from_the_next() -> None:
    ratios, sessions = [1.0] * 10 + [1.1] * 10 + [1.2] * 10, [0] * 10 + [1] * 10 + [2] * 10
    blind, aware = ratio(ratios, [1.0] * 30), ratio(ratios, [1.0] * 30, sessions)
    assert blind is not None and aware is not None
    assert aware.value == blind.value == pytest.approx(1.1)
    assert (aware.low, aware.high) == pytest.approx((1.0, 1.2))
    assert blind.high - blind.low <= aware.high - aware.low


def test_few_rounds_decide_nothing() -> None:
    for count in range(1, MIN_ROUNDS):
        bar = Bar.of("a bar", ratio([1.0] * count, [2.0] * count), 1.0)
        assert (bar.value, bar.passed) == (0.5, None)
        assert json.loads(json.dumps(records_of([bar]), allow_nan=False))[0]["verdict"] == "undecided"
    assert Bar.of("a bar", ratio([1.0] * MIN_ROUNDS, [2.0] * MIN_ROUNDS), 1.0).passed is True
    assert ratio([], []) is None


@pytest.mark.parametrize(("slower", "passed"), [(1.01, True), (1.03, False)])
def test_a_bar_is_on_the_median_step_of_each_round(slower: float, passed: bool) -> None:
    records = rounds_of(BARE, [1.0] * 8) + rounds_of(ENGINE, [slower] * 8)
    measured = report.bars(records)
    decided = [bar for bar in measured if bar.value is not None]
    assert [(bar.name, bar.passed) for bar in decided] == [(f"{ENGINE} / {BARE}", passed)]
    assert report.is_passed(records, measured) is passed


@pytest.mark.parametrize("reason", report.REASONS)
def test_the_check_fails_if_one_of_ours_did_not_run(reason: str) -> None:
    records = rounds_of(BARE, [1.0] * 8) + rounds_of(ENGINE, [1.0] * 8)
    assert report.is_passed(records, report.bars(records))
    broken = [*records, {"type": "start", "contestant": TRAINER, reason: "the loss of step 1"}]
    assert not report.is_passed(broken, report.bars(broken))


def test_the_check_passes_without_a_peer_that_is_not_installed_and_fails_if_nothing_is_decided() -> None:
    records = rounds_of(BARE, [1.0] * 8) + rounds_of(ENGINE, [1.0] * 8)
    peer = next(other for _, other, limit in report.compared() if limit == report.OF_PEER)
    records.append({"type": "start", "contestant": peer, "missing": "a library"})
    assert report.is_passed(records, report.bars(records))
    assert not report.is_passed(records[:1], [])


def test_a_line_of_the_summary_has_tokens_flops_and_mfu_by_their_formulas() -> None:
    (line,) = report.summary(rounds_of(BARE, [0.5] * 8), HEADER | {"peak_tflops": 1e-3})
    assert line["tokens_per_s"] == 256
    assert line["tflops"] == pytest.approx(256e6 / 1e12)
    assert line["mfu"] == pytest.approx(0.256)
    assert "mfu" not in report.summary(rounds_of(BARE, [0.5] * 8), HEADER)[0]


# ---- the command ----


@pytest.mark.long
def test_ours_agrees_with_the_bare_loop_and_planted_bugs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = "tests.benchmarks.contestants"
    chosen = {
        BARE: CONTESTANTS[BARE],
        TRAINER: CONTESTANTS[TRAINER],
        "another rate": Contestant(f"{planted}:other", {"lr": 1.05e-3}),
        "other weights": Contestant(f"{planted}:other", {"seed": 1}),
        "fails later": Contestant(f"{planted}:fails_later"),
        "missing": Contestant("no_such_library.models:train"),
    }
    for module in ("benchmarks.train.__main__", "benchmarks.train.report"):
        monkeypatch.setattr(f"{module}.CONTESTANTS", chosen)
    out = tmp_path / "train_tiny.jsonl"
    asked = [
        "--size",
        "tiny",
        "--sessions",
        "1",
        "--rounds",
        "2",
        "--steps",
        "2",
        "--warmup",
        "0",
        "--profile",
        "--out",
        str(out),
    ]
    ended = CliRunner().invoke(app, [*asked, "--check"])
    assert ended.exit_code == 1, ended.output  # nothing was decided
    header, *records, summary = map(json.loads, out.read_text().splitlines())
    assert header["tolerance"] == vars(TOLERANCES["fp32"])
    reasons = {each["contestant"]: each for each in records if {"refused", "missing", "failed"} & each.keys()}
    assert list(reasons) == ["another rate", "other weights", "missing", "fails later"]
    assert "the loss of step 2" in reasons["another rate"]["refused"]
    assert "the norm of the initial weights" in reasons["other weights"]["refused"]
    assert reasons["missing"]["missing"] == "No module named 'no_such_library'"
    assert "the planted failure" in reasons["fails later"]["failed"]
    measured = [each["contestant"] for each in records if each["type"] == "round" and "step_s" in each]
    assert sorted(measured) == sorted([BARE, TRAINER] * 2)
    assert {bar["verdict"] for bar in summary["bars"]} == {"not measured"}
    assert [(each["contestant"], each["other"]) for each in summary["ratios"]] == [(TRAINER, BARE)]
    assert all(each["step_s"] > 0 for each in summary["contestants"] if each["contestant"] in (BARE, TRAINER))
    profiles = [each["profile"] for each in records if each["type"] == "profile"]
    assert len(profiles) == 2
    assert all(profile["matrix products"] > 0 for profile in profiles)
    text = text_of(tmp_path)
    assert f"| {TRAINER} | {BARE} |" in text
    assert "No module named 'no_such_library'" in text


def test_an_unknown_size_or_contestant_is_refused_with_the_known_ones() -> None:
    for options, known in ((["--size", "huge"], "tiny"), (["--only", "nanoGPT"], "litgpt")):
        ended = CliRunner().invoke(app, options)
        assert ended.exit_code == 2
        assert known in ended.output


# ---- the document ----


def test_the_document_shows_the_committed_results() -> None:
    if train_files(RESULTS) or DOCUMENT.exists():
        assert DOCUMENT.read_text() == text_of(RESULTS), "run python -m benchmarks.train.document"


def test_numbers_of_the_document_follow_the_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no train_"):
        text_of(tmp_path)
    header = {
        **HEADER,
        "type": "header",
        "size": "tiny",
        "task": {"num_layers": 2, "d_model": 64, "batch_size": 4, "seq_len": 32, "precision": "fp32", "device": "cpu"}
        | {"threads": 1},
        "num_params": 10**6,
        "gpu": "",
        "cpu": "a CPU",
        "versions": {"torch": "2.13"},
    }
    lines = [header, *rounds_of(BARE, [1.0] * 8), *rounds_of(ENGINE, [1.5] * 8)]
    path = tmp_path / "train_tiny.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    assert read(path)[0] == header
    text = text_of(tmp_path)
    assert f"| {ENGINE} | {BARE} | 1.500 | 1.500 to 1.500 | 1.000 |" in text
    assert f"| {ENGINE} / {BARE} | 1.500 | 1.02 | FAILED |" in text
    assert "the load of the machine was 0.5 to 0.5" in text


def test_every_contestant_of_the_table_has_a_function_that_exists() -> None:
    for contestant in CONTESTANTS.values():
        module, _, name = contestant.function.partition(":")
        source = Path(ROOT, *module.split(".")).with_suffix(".py").read_text()
        assert f"def {name}(job: Job" in source
