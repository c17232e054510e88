"""The benchmark of consumers finds a token that is not ours, resumes, and its document shows the committed results."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from benchmarks.consumers import commands
from benchmarks.consumers.__main__ import app, check_all
from benchmarks.consumers.commands import CommandError
from benchmarks.consumers.comparison import LEAST_TOKENS, NOISE, compare
from benchmarks.consumers.consumer import CheckFailedError, Consumer, Job, Measured, checked_texts
from benchmarks.consumers.environments import STAMP, Environment
from benchmarks.consumers.models import FAMILIES
from benchmarks.consumers.ours import NUM_TOKENS, PROMPTS, Ours
from benchmarks.consumers.records import BEGIN, END, add, in_document, is_done, read, tables
from benchmarks.consumers.registry import CONSUMERS
from benchmarks.consumers.trl import measured_of, refusal
from foretrain.configs.load import load
from foretrain.configs.schema import Config
from tests.cli import ROOT
from tests.trainer.interop.made import random_model, write_checkpoint

RESULTS = ROOT / "benchmarks/results/consumers.jsonl"
TEXT = list(range(LEAST_TOKENS + 8))


def gap_of(size: float) -> Any:
    return lambda prompt, position, ours, theirs: size


# ---- texts ----


def test_equal_texts_are_compared_token_by_token() -> None:
    found = compare([TEXT, TEXT[1:]], [TEXT, TEXT[1:]], gap_of(0))
    assert found.reason == "" and not found.differences
    assert found.record()["tokens"] == len(TEXT) + len(TEXT) - 1 and found.record()["fewest_tokens"] == len(TEXT) - 1


@pytest.mark.parametrize("position", [0, 5, len(TEXT) - 1])
def test_one_other_token_is_found_and_what_follows_it_says_nothing(position: int) -> None:
    planted = [*TEXT[:position], 99, *(7 for _ in TEXT[position + 1 :])]
    found = compare([TEXT, TEXT], [TEXT, planted], gap_of(0.5))
    assert f"token {position} of prompt 1: 99 instead of {position} (our logits differ by 0.5)" in found.reason
    assert found.equal_tokens == [len(TEXT), position] and len(found.differences) == 1
    assert found.record()["differences"][0]["is_noise"] is False


def test_another_token_counts_as_noise_only_if_our_logits_are_a_tie() -> None:
    planted = [*TEXT[:5], 99, *TEXT[6:]]
    assert compare([TEXT], [planted], gap_of(0.9 * NOISE)).reason == ""
    assert compare([TEXT], [planted], gap_of(NOISE)).reason
    assert compare([TEXT], [planted], gap_of(float("nan"))).reason


@pytest.mark.parametrize("theirs", [TEXT[:-1], [*TEXT, 3]])
def test_a_text_that_ends_elsewhere_is_another(theirs: list[int]) -> None:
    assert "one of them ends there" in compare([TEXT], [theirs], gap_of(0)).reason


def test_texts_that_are_too_short_prove_nothing() -> None:
    short = TEXT[: LEAST_TOKENS - 1]
    assert "ends after 31 tokens" in compare([TEXT, short], [TEXT, short], gap_of(0)).reason
    with pytest.raises(ValueError, match="shorter"):
        compare([TEXT, TEXT], [TEXT], gap_of(0))


# ---- ours ----


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    run_dir = tmp_path_factory.mktemp("consumers") / "run"
    sizes = ["vocab_size=300", "d_model=16", "num_layers=1", "num_heads=2", "seq_len=128"]
    config: Config = load(ROOT / "configs/runs/dry_run.yaml", [f"model.{each}" for each in sizes])
    write_checkpoint(run_dir, config, random_model(config).shards())
    return Ours(run_dir)


def test_our_tokens_are_those_of_the_text_that_generate_prints(ours: Ours) -> None:
    assert [len(each) for each in ours.tokens] == [NUM_TOKENS] * len(PROMPTS)
    assert [ours.model.tokenizer.decode(each) for each in ours.tokens] == ours.texts
    for prompt, tokens in enumerate(ours.tokens):
        assert all(ours.gap(prompt, place, token, 7) >= 0 for place, token in enumerate(tokens))
    assert 0 <= ours.margins[0] < ours.median_margin


def test_a_consumer_with_another_tokenizer_token_or_text_is_refused(ours: Ours) -> None:
    job = Job(cast(Any, None), ours, Path(), Path(), "")
    right = {"prompt_ids": ours.prompt_ids, "tokens": ours.tokens, "texts": ours.texts}
    assert checked_texts(job, right)["tokens"] == NUM_TOKENS * len(PROMPTS)
    for name, wrong, reason in (
        ("prompt_ids", [[0, *each] for each in ours.prompt_ids], "tokenizer"),
        ("tokens", [[each[0], each[1] ^ 1, *each[2:]] for each in ours.tokens], "texts differ"),
        ("texts", [f" {each}" for each in ours.texts], "its tokens are ours"),
    ):
        with pytest.raises(CheckFailedError, match=reason) as error:
            checked_texts(job, {**right, name: wrong})
        assert error.value.measured["prompts"] == len(PROMPTS)


# ---- the step ----

ROWS = [[5, 6, 0], [7, 0]]
STEP = {"loss": 2.0, "our_loss": 2.0, "difference": 0.0, "loss_after": 1.9, "tensors": 3, "changed_tensors": 3}


@pytest.mark.parametrize(
    ("change", "rows", "reason"),
    [
        ({}, ROWS[::-1], ""),
        ({}, [[5, 6], [7]], "rows of tokens"),
        ({"loss": 2.1, "difference": 0.05}, ROWS, "its loss is 2.1"),
        ({"loss": float("nan"), "difference": float("nan")}, ROWS, "its loss is nan"),
        ({"changed_tensors": 2}, ROWS, "2 of 3"),
        ({"loss_after": 2.0}, ROWS, "raised"),
    ],
)
def test_a_step_is_refused_unless_it_is_one_from_our_model(
    change: Measured, rows: list[list[int]], reason: str
) -> None:
    found = refusal({**STEP, **change}, rows, ROWS)
    assert reason in found and bool(reason) == bool(found)


def test_a_loss_that_was_divided_by_more_tokens_than_are_predicted_is_the_same_loss() -> None:
    found = {"loss": 1.5, "divisor": 8, "loss_after": 1.0, "divisor_after": None}
    measured = measured_of(found, tokens=6, our_loss=2.0)
    assert (measured["loss"], measured["loss_after"], measured["difference"]) == (2.0, 1.0, 0.0)
    assert measured_of({**found, "divisor": 6}, tokens=6, our_loss=2.0)["difference"] == 0.25


# ---- commands, environments, results ----


def test_a_command_that_fails_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"trial: exit status 3: it broke"):
        commands.run(["sh", "-c", "echo it broke; exit 3"], tmp_path / "log", "trial")
    with (
        pytest.raises(CommandError, match="not ready after 0 s"),
        commands.started(["sleep", "600"], tmp_path / "log") as process,
    ):
        commands.wait_until(lambda: False, tmp_path / "log", "trial", limit_s=0)
    assert process.poll() is not None


def test_an_environment_is_made_again_only_for_other_packages(tmp_path: Path) -> None:
    wanted = Environment(("a==1",))
    (tmp_path / STAMP).write_text(json.dumps({"packages": ["a==1"], "removed": []}) + "\n")
    assert wanted.make(tmp_path, "trial") == tmp_path / "bin" / "python"
    assert list(tmp_path.iterdir()) == [tmp_path / STAMP]


class Unavailable(Environment):
    """An environment of packages that are not to be had."""

    def make(self, folder: Path, label: str) -> Path:
        raise CommandError(f"{label}: exit status 1: no matching distribution")


class Absent(Consumer):
    """A consumer that cannot be installed."""

    name, way, environment, shown_versions = "absent", "not at all", Unavailable(("absent==1",)), ("absent",)

    def check(self, job: Job) -> Measured:
        raise AssertionError("it is not installed")


def test_a_consumer_that_cannot_be_installed_is_recorded_with_the_reason(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    check_all(Absent(), out, tmp_path, again=False)
    lines = read(out)
    assert [each["family"] for each in lines] == list(FAMILIES)
    assert all(each["passed"] is None and "no matching distribution" in each["reason"] for each in lines)
    assert not is_done(lines, "absent", "Llama", ["absent==1"])
    assert "| absent | Llama | absent: exit status 1" in tables(lines)


def test_a_line_replaces_the_earlier_one_of_its_check_and_only_a_pass_with_the_same_packages_is_kept(
    tmp_path: Path,
) -> None:
    out = tmp_path / "results.jsonl"
    line = {"consumer": "one", "family": "Llama", "packages": ["a==1"], "passed": False, "reason": "it differs"}
    add(out, {**line, "family": "Qwen3"})
    add(out, line)
    assert not is_done(read(out), "one", "Llama", ["a==1"])
    add(out, {**line, "passed": True, "reason": ""})
    assert [(each["family"], each["passed"]) for each in read(out)] == [("Qwen3", False), ("Llama", True)]
    assert is_done(read(out), "one", "Llama", ["a==1"]) and not is_done(read(out), "one", "Llama", ["a==2"])
    assert list(tmp_path.iterdir()) == [out]


def test_an_unknown_consumer_is_refused_with_those_that_there_are() -> None:
    answer = CliRunner().invoke(app, ["--only", "none"])
    assert answer.exit_code == 2 and all(name in answer.output for name in CONSUMERS)


def test_a_document_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        in_document("a page", [])
    assert in_document(f"a {BEGIN} old {END} z", []).startswith(f"a {BEGIN}\n")


def test_every_consumer_has_passed_with_every_family_and_the_document_says_so() -> None:
    records = read(RESULTS)
    checks = {(each["consumer"], each["family"]): each for each in records}
    for name, consumer in CONSUMERS.items():
        for family in consumer.families:
            found = checks[name, family]
            assert found["passed"] and found["packages"] == list(consumer.environment.packages), (name, family)
            assert found.get("fewest_tokens", LEAST_TOKENS) >= LEAST_TOKENS or found["differences"]
    document = (ROOT / "docs/interop.md").read_text(encoding="utf-8")
    assert in_document(document, records) == document
