"""The benchmark of planted bugs: its plan, its bugs, its committed results, and a tiny one from ladder to warning."""

import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.alarms.__main__ import read, run
from benchmarks.alarms.bugs import DecayOfGains, ShuffledTokens, WrongRate
from benchmarks.alarms.judge import excesses_by_test, named
from benchmarks.alarms.plan import BUGS, Bug, Plan, first_step
from benchmarks.alarms.report import BEGIN, END, in_document, row, table
from benchmarks.predictions.plan import LINEAR, Family
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.model.spec import Scale
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.trainer import Trainer
from tests.cli import ROOT

RECORDS = read(ROOT / "benchmarks/results/alarms.jsonl")
TRIAL = read(ROOT / "benchmarks/results/alarms_trial.jsonl")
NUM_STEPS = 9


def trainer_of(groups: list[dict[str, Any]]) -> Trainer:
    """What the bugs read of a trainer whose run has nine steps."""
    hidden = SimpleNamespace(param=SimpleNamespace(role="hidden", scale=Scale(lr=0.5, eps=1.0, weight_decay=2.0)))
    return cast(
        Trainer,
        SimpleNamespace(
            run=SimpleNamespace(total_steps=NUM_STEPS, config=SimpleNamespace(data=SimpleNamespace(seed=3))),
            engine=SimpleNamespace(zero=SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))),
            state=SimpleNamespace(shards=[hidden]),
        ),
    )


def test_twenty_sound_seeds_are_none_of_the_ladder_and_a_run_with_a_bug_has_a_sound_twin() -> None:
    plan = Plan()
    assert len(set(plan.sound_seeds)) == 20 and min(plan.sound_seeds) >= plan.num_ladder_seeds
    assert set(plan.bug_seeds) <= set(plan.sound_seeds)
    names = [each.name for each in plan.runs()]
    assert len(set(names)) == len(names) == 2 * (20 + len(plan.bug_seeds) * len(BUGS))


def test_a_bug_begins_with_the_first_step_after_the_middle_and_changes_what_it_says() -> None:
    def groups() -> list[dict[str, Any]]:
        return [
            {"name": "lr x0.5, eps x1, decay x2", "lr": 1.0, "weight_decay": 0.0},
            {"name": "lr x1, eps x1, decay x1", "lr": 1.0, "weight_decay": 0.0},
            {"name": "lr x1, eps x1, no decay", "lr": 1.0, "weight_decay": 0.0},
        ]

    begins = first_step(NUM_STEPS)
    assert [2 * (step - 1) >= NUM_STEPS - 1 for step in (begins - 1, begins)] == [False, True]
    for bug, key, changed in (
        (WrongRate(4.0), "lr", [4.0, 1.0, 1.0]),
        (DecayOfGains(0.1), "weight_decay", [0, 0, 0.1]),
    ):
        found = groups()
        bug.before_update(trainer_of(found), begins - 1)
        assert found == groups()
        bug.before_update(trainer_of(found), begins)
        assert [group[key] for group in found] == changed


def test_shuffled_tokens_keep_their_frequencies_and_are_in_their_share_of_the_samples() -> None:
    def batch() -> Batch:
        made = Batch.of_rows(1000, 8, with_positions=False)
        assert made.rows_BC is not None
        made.rows_BC[:] = np.arange(9000).reshape(1000, 9)
        return made

    right, wrong, bug = batch(), batch(), ShuffledTokens(0.2)
    bug.before_step(trainer_of([]), first_step(NUM_STEPS) - 1, wrong)
    assert (wrong.tokens_BL == right.tokens_BL).all()
    bug.before_step(trainer_of([]), first_step(NUM_STEPS), wrong)
    assert wrong.rows_BC is not None
    is_broken_B = (wrong.tokens_BL != right.tokens_BL).any(1)
    assert is_broken_B.mean() == pytest.approx(0.2, abs=0.05)
    assert sorted(wrong.rows_BC.ravel().tolist()) == list(range(9000))


def line(size: str, seed: int, loss: float, bug: Bug | None = None, step: int | None = None) -> dict[str, Any]:
    return {
        "kind": "run",
        "size": size,
        "seed": seed,
        "bug": bug and bug.name,
        "strength": bug and bug.strength,
        "num_steps": 100,
        "first_step": 51,
        "val_loss": loss,
        "reported_step": step,
        "fit": {"is_named": bool(bug), "others_named": []},
    }


def test_a_row_says_how_early_a_bug_was_reported_and_what_it_changed_of_the_run_with_its_seed() -> None:
    bug = BUGS[0]
    lines = [line("target", 0, 2.0), line("target", 1, 4.0), line("target", 1, 4.4, bug, 60), line("target", 7, 9, bug)]
    found = row(lines, "target", bug)
    assert found is not None and found.count == 1, "no sound run has the seed 7"
    assert found.warned == [0.1] and found.named == 1 and found.differences == [pytest.approx(0.1)]
    sound = row(lines, "target", None)
    assert sound is not None and sound.warned == [None, None] and sound.named == 0
    assert row(lines, "proxy", bug) is None
    assert "| +10.00 | 1 of 1 | 10.0 | 1 of 1 |  |  |" in table(lines)


def test_the_document_shows_the_committed_results() -> None:
    document = (ROOT / "docs/prediction.md").read_text("utf-8")
    assert in_document(document, RECORDS) == document
    with pytest.raises(ValueError, match="has no place for the table"):
        in_document(document.replace(END, ""), RECORDS)
    other = document.replace(f"{BEGIN}\n\n|", f"{BEGIN}\n\n|x")
    assert other != document and in_document(other, RECORDS) == document


def test_the_committed_warnings_are_those_of_the_code() -> None:
    for records in (RECORDS, TRIAL):
        for each in (each for each in records[1:] if each["size"] == "target"):
            curve = PredictedCurve.of(records[0]["curve"])
            excess_K = np.max(list(excesses_by_test(curve, np.array(each["means"])).values()), axis=0)
            first = int(np.argmax(excess_K >= 1.0))
            step = int(np.ceil(curve.edges[first + 1] * each["num_steps"] - 1e-9)) if excess_K[first] >= 1.0 else None
            assert step == each["reported_step"], each["run"]


@pytest.mark.long
def test_fit_names_no_sound_run_of_the_trial_whose_shape_is_beyond_that_of_its_proxies() -> None:
    setup, *runs = TRIAL
    assert len(runs) == 5
    for each in runs:
        assert named(setup, each) == each["fit"]
        assert not each["fit"]["is_named"] and not each["fit"]["others_named"]


@pytest.mark.long
def test_a_strong_bug_is_warned_of_after_it_begins_and_a_sound_run_is_not(tmp_path: Path) -> None:
    bug = Bug("shuffled", 0.2)
    plan = Plan(
        Family("tiny", "texts", 1, 10, LINEAR, (36,), proxies=(16, 20, 24)),
        num_ladder_seeds=2,
        vocab_size=258,
        sound_seeds=(100,),
        bugs=(bug,),
        sizes=("target",),
        overrides=("train.eval_samples=256",),
        law="compute_no_e",  # three sizes do not determine a constant
    )
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [library / name for name in ("email", "json", "logging", "unittest")]
    prepare(texts, tmp_path / "data" / "texts_258", vocab_size=258)
    out = tmp_path / "alarms.jsonl"
    run(plan, out, tmp_path)
    setup, sound, wrong = read(out)
    assert setup["widths"] == [16, 20, 24] and (sound["bug"], wrong["bug"]) == (None, bug.name)
    begins = wrong["first_step"]
    assert sound["reported_step"] is None
    assert wrong["reported_step"] is not None and begins <= wrong["reported_step"] < 1.5 * begins
    middle = np.searchsorted(setup["curve"]["edges"], 0.5) - 1
    assert wrong["means"][:middle] == sound["means"][:middle] != wrong["means"][-middle:]

    before = out.read_bytes()
    run(plan, out, tmp_path)
    assert out.read_bytes() == before
