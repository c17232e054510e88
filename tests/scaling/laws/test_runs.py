"""What laws are fitted to: the facts of a run from its folder, or from a row of a table, or why there are none."""

import hashlib
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs import load as configs
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.parametrization import MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.scaling.laws.forms import FORMS
from foretrain.scaling.laws.runs import COLUMNS, RunFacts, read_runs
from foretrain.scaling.records import SWEEP_FILE, TRIALS
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS_ERROR, to_line
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import CONFIG_FILE, DESCRIPTION_FILE, ENVIRONMENT_FILE

CONFIG = Config(
    model=ModelConfig(vocab_size=300, seq_len=32),
    mup=MupConfig(parametrization="standard"),
    schedule=ScheduleConfig(kind="linear", warmup_tokens=256, min_factor=0.0),
    train=TrainConfig(num_tokens=5 * 8 * 32, global_batch_size=8, seed=3),
)
DESCRIPTION = Description(
    num_params=1000,
    num_params_without_embeddings=400,
    flops_per_token=7000,
    tokens_per_step=8 * 32,
    num_steps=5,
    num_tokens=5 * 8 * 32,
    flops=7000 * 5 * 8 * 32,
    flops_6nd=6000 * 5 * 8 * 32,
    tokenizer_sha256="t",
    data_fingerprint="d",
    held_out_fingerprint="h",
    mixture_fingerprint="m",
)


def step(number: int, loss: float = 4.0) -> dict[str, Any]:
    return {"kind": "train", "step": number, "loss": loss, "grad_norm": 1.0}


def evaluation(number: int, loss: float = 3.5, **more: float) -> dict[str, Any]:
    return {"kind": "eval", "step": number, "val_loss": loss, **more}


FIVE_STEPS = [step(number) for number in range(1, 6)]


def write_run(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    configs.save(CONFIG, folder / CONFIG_FILE)
    DESCRIPTION.write(folder)
    (folder / METRICS_FILE).write_text("".join(map(to_line, records)))
    (folder / ENVIRONMENT_FILE).write_text(json.dumps({"git": "abc"}))
    return folder


def test_the_facts_of_a_finished_run_are_those_in_its_folder(tmp_path: Path) -> None:
    last = evaluation(5, 3.25, **{VAL_LOSS_ERROR: 0.01, "val_samples": 64})
    changed = {"kind": "data_changed", "step": 3, "change": "data.seed: 0 -> 1"}
    folder = write_run(tmp_path / "run", [*FIVE_STEPS[:2], evaluation(2), *FIVE_STEPS[2:], changed, last])
    run = RunFacts.of_folder(folder)
    assert run == RunFacts(
        name=str(folder),
        loss=3.25,
        loss_error=0.01,
        num_held_out_samples=64,
        num_params=1000,
        num_params_without_embeddings=400,
        num_tokens=1280,
        flops=7000 * 1280,
        seed=3,
        tokens_per_step=256,
        seq_len=32,
        parametrization="standard",
        schedule=ScheduleConfig(kind="linear", warmup_tokens=256, min_factor=0.0),
        tokenizer_sha256="t",
        data_fingerprint="d",
        held_out_fingerprint="h",
        mixture_fingerprint="m",
        data_changes=("data.seed: 0 -> 1",),
        code="abc",
        metrics_sha256=hashlib.sha256((folder / METRICS_FILE).read_bytes()).hexdigest(),
        config=CONFIG,
    )
    assert [run.variable(name) for name in FORMS.get("chinchilla").variables] == [1000, 1280]
    assert (run.variable("N", embeddings=False), run.variable("C")) == (400, 7000 * 1280)


def test_an_evaluation_of_an_older_version_has_no_standard_error(tmp_path: Path) -> None:
    run = RunFacts.of_folder(write_run(tmp_path / "run", [*FIVE_STEPS, evaluation(5)]))
    assert (run.loss, run.loss_error, run.num_held_out_samples) == (3.5, None, None)


def test_a_run_that_continues_is_taken_at_its_last_evaluation_if_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [*FIVE_STEPS[:2], evaluation(2, 3.75), FIVE_STEPS[2]])
    run = RunFacts.of_folder(folder, must_be_finished=False)
    assert (run.is_finished, run.loss, run.num_tokens, run.flops) == (False, 3.75, 512, 7000 * 512)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (FIVE_STEPS[:3], "has done 3 of 5 steps: continue it with the same command, or leave it out"),
        ([step(1), step(2, math.nan)], "diverged at step 2: train it with other settings, or leave it out"),
        ([], "has done 0 of 5 steps"),
        ([*FIVE_STEPS[:4], evaluation(4), FIVE_STEPS[4]], r"was not evaluated .* after its last step \(5\): train it"),
        ([*FIVE_STEPS, evaluation(5, math.nan)], "diverged: its held-out loss is nan; leave it out"),
    ],
)
def test_a_run_without_what_is_needed_is_a_problem_of_one_line(
    tmp_path: Path, records: list[dict[str, Any]], reason: str
) -> None:
    good = write_run(tmp_path / "good", [*FIVE_STEPS, evaluation(5)])
    bad = write_run(tmp_path / "bad", records)
    runs, problems = read_runs([bad, good])
    assert [run.name for run in runs] == [str(good)]
    (problem,) = problems
    assert re.match(re.escape(f"{bad} ") + reason, problem) and "\n" not in problem


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (DESCRIPTION_FILE, None, "the command that trained it adds it"),
        (DESCRIPTION_FILE, "{}", "does not describe a run"),
        (DESCRIPTION_FILE, json.dumps(asdict(DESCRIPTION) | {"version": 99}), "version is 99: update foretrain"),
        (METRICS_FILE, None, "is not the folder of a run: it has no metrics.jsonl"),
        (METRICS_FILE, "oh\nno\n", "metrics.jsonl:1 is not a record"),
        (CONFIG_FILE, None, "no readable config.yaml"),
        (CONFIG_FILE, "model: {no_such: 1}\n", "no readable config.yaml .*no_such"),
        (ENVIRONMENT_FILE, "{", ""),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(
    tmp_path: Path, file: str, content: str | None, reason: str
) -> None:
    folder = write_run(tmp_path / "run", [*FIVE_STEPS, evaluation(5)])
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    runs, problems = read_runs([folder])
    if not reason:  # the version of the code alone is not known
        assert not problems and runs[0].code == ""
        return
    assert not runs and re.search(reason, problems[0]) and str(folder) in problems[0] and "\n" not in problems[0]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert read_runs([tmp_path / "none"])[1] == [f"{tmp_path}/none is not the folder of a run: there is no such folder"]


def test_a_sweep_stands_for_its_trials_each_once(tmp_path: Path) -> None:
    trials = [write_run(tmp_path / "sweep" / TRIALS / name, [*FIVE_STEPS, evaluation(5)]) for name in ("b", "a")]
    (tmp_path / "sweep" / SWEEP_FILE).write_text("{}")
    runs, problems = read_runs([trials[0], tmp_path / "sweep"])
    assert [run.name for run in runs] == list(map(str, trials)) and not problems


def test_a_row_of_a_table_is_a_run() -> None:
    row = {"N": "1.5e9", "D": "3e10", "C": "", "loss": " 2.1", "seed": "2", "group": "ladder", "other": "?"}
    assert RunFacts.of_row(row, "runs.csv:2") == RunFacts(
        name="runs.csv:2", num_params=1.5e9, num_tokens=3e10, loss=2.1, seed=2, group="ladder"
    )
    assert RunFacts.of_row({"C": "1e20", "loss": "3"}, "runs.csv:3").variable("N") is None


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "many"])
def test_a_row_with_a_number_that_cannot_be_is_refused_by_place_and_column(column: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"runs\.csv:7: {column} = {text} is not a positive number"):
        RunFacts.of_row({"N": "1", "D": "1", "loss": "1", column: text}, "runs.csv:7")


def test_a_row_without_a_loss_or_with_a_seed_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"runs\.csv:7 has no loss"):
        RunFacts.of_row({"N": "1", "D": "1", "loss": " "}, "runs.csv:7")
    with pytest.raises(ValueError, match=r"runs\.csv:7: seed = x is not a whole number"):
        RunFacts.of_row({"loss": "1", "seed": "x"}, "runs.csv:7")
