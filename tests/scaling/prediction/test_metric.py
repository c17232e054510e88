"""Another metric than the loss is fitted, predicted and scored alike, and is never mixed with the loss."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.scaling.budget.source import of_fit
from foretrain.scaling.laws.metric import label_of
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.scaling.prediction.score import score
from foretrain.scaling.prediction.table import read_table
from foretrain.scaling.prediction.target import target_of
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.predicted import SealedPrediction
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.tasks.base import fingerprint, problems_of
from foretrain.verbs.app import app
from tests.scaling.prediction.folders import write_folder

COPY = "neg_log_pass_rate/copy"
STEPS, TOKENS_PER_STEP = 4, 256
AFTER = datetime(2100, 1, 1, tzinfo=UTC)
PROBLEMS = fingerprint(problems_of("copy", 128))


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


def law(flops: float) -> float:
    return 3000 / flops**0.15


def write_run(
    folder: Path, flops: float, seed: int = 0, problems: str = PROBLEMS, more: dict[str, float] | None = None
) -> Path:
    """A finished run, whose loss and whose -log(pass rate) follow different laws."""
    random = np.random.default_rng([int(flops) % 997, seed])
    rate = law(flops) * float(np.exp(0.01 * random.standard_normal()))
    measured = {"val_loss": 1.8 + 1000 / flops**0.18, COPY: rate, "accuracy/copy": 0.5} | (more or {})
    error = {"neg_log_pass_rate_standard_error/copy": 0.4}
    records: list[dict[str, Any]] = [
        {"kind": "task", "step": 0, "task": "copy", "problems": 128, "sha256": problems},
        {"kind": "task", "step": 0, "task": "recall", "problems": 128, "sha256": "r"},
        *({"kind": "train", "step": step, "loss": 3.0, "grad_norm": 1.0} for step in range(1, STEPS + 1)),
        {"kind": "eval", "step": STEPS, **measured, **error},
    ]
    train = TrainConfig(num_tokens=STEPS * TOKENS_PER_STEP, global_batch_size=8, seed=seed, eval_tasks=["copy"])
    config = Config(model=ModelConfig(vocab_size=300, seq_len=32), train=train)
    return write_folder(folder, config, flops, TOKENS_PER_STEP, records)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("runs")
    return [write_run(path / f"{flops:.0e}", flops) for flops in np.geomspace(1e13, 1e16, 8)]


@pytest.fixture(scope="module")
def fit_file(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `foretrain fit` writes for the task."""
    path = tmp_path_factory.mktemp("fit") / "fit.json"
    ended = called("fit", *folders, "--metric", COPY, "--out", path)
    assert ended.exit_code == 0, ended.output
    assert f"{COPY} in place of the loss L; L(C) = E + a / C^b: 8 runs of 8 sizes" in ended.output
    assert f"loss curves: not compared, since the fit is of {COPY}" in ended.output
    return path


@pytest.fixture(scope="module")
def prediction_file(fit_file: Path) -> Path:
    """What `foretrain predict` seals."""
    path = fit_file.with_name("prediction.json")
    ended = called("predict", "--fit", fit_file, "--flops", "1e17", "--out", path)
    assert ended.exit_code == 0, ended.output
    assert "a task may be learned within a small range of compute" in ended.output
    assert f"predicted {COPY} " in ended.output and f"loss curve: none, since the fit is of {COPY}" in ended.output
    return path


def test_a_fit_of_a_metric_has_its_values_and_says_so(folders: list[Path], fit_file: Path) -> None:
    table = read_table(folders, metric=COPY)
    assert table.losses[0] == pytest.approx(law(1e13), rel=0.05) and table.form.name == "compute"
    assert table.runs[0].loss_error == 0.4
    record = FitRecord.read(fit_file)
    assert (record.metric, record.problems_sha256) == (COPY, PROBLEMS)
    assert [run["loss"] for run in record.runs] == table.losses.tolist()
    assert record.parameters["b"]["value"] == pytest.approx(0.15, abs=0.03) and record.backtest
    assert read_table(folders).metric == "val_loss"


def test_a_prediction_of_a_metric_holds_the_truth_and_is_scored_by_it_alone(
    prediction_file: Path, tmp_path: Path
) -> None:
    found = PredictionRecord.read(prediction_file)
    assert (found.metric, found.problems_sha256) == (COPY, PROBLEMS)
    low, high = found.intervals["0.95"]
    assert low < law(1e17) < high
    folder = write_run(tmp_path / "large", 1e17)
    right = score(found, RunFacts.of_folder(folder, metric=COPY), AFTER)
    assert right.counts and right.measured == pytest.approx(law(1e17), rel=0.05)
    with pytest.raises(ValueError, match=f"the prediction is of {COPY}, and val_loss of .* was read"):
        score(found, RunFacts.of_folder(folder), AFTER)
    others = replace(RunFacts.of_folder(folder, metric=COPY), problems_sha256="other")
    assert "other problems of the task" in score(found, others, AFTER).problems[0]
    ended = called("score", folder, "--prediction", prediction_file, "--out", tmp_path / "a.score.json")
    assert f"{COPY}: predicted " in ended.output and "does not say when it began" in ended.output


def test_a_run_is_not_compared_with_a_prediction_of_another_metric(prediction_file: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"predicts {COPY}, and a run is compared .* of its loss: name one"
    ) as refused:
        SealedPrediction.read(prediction_file)
    assert "\n" not in str(refused.value)


def test_the_seal_covers_the_metric(prediction_file: Path, tmp_path: Path) -> None:
    values = json.loads(prediction_file.read_text())
    (tmp_path / "a.json").write_text(json.dumps({**values, "metric": "val_loss"}))
    with pytest.raises(ValueError, match="was changed after it was sealed"):
        PredictionRecord.read(tmp_path / "a.json")


def test_a_budget_is_not_spent_by_a_fit_of_another_metric(fit_file: Path) -> None:
    with pytest.raises(ValueError, match=f"is a fit of {COPY}, and a budget needs the loss"):
        of_fit(fit_file)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("accuracy/copy", "an accuracy is no sum of power laws, .* fit neg_log_pass_rate/copy"),
        ("accuracy", "fit neg_log_pass_rate/TASK"),
        ("neg_log_pass_rate", "use one of these"),
        ("val_samples", "laws can be fitted to val_loss, val_loss/SOURCE and neg_log_pass_rate/TASK"),
        ("neg_log_pass_rate/recall", r"has no neg_log_pass_rate/recall .* train it with train.eval_tasks=\[recall\]"),
        ("val_loss/web", "has no val_loss/web in its last evaluation: name another metric"),
    ],
)
def test_what_is_no_metric_of_a_law_or_was_not_measured_is_refused(
    metric: str, words: str, folders: list[Path]
) -> None:
    with pytest.raises(ValueError, match=words):
        read_table(folders[:3], metric=metric)


def test_runs_on_different_problems_or_without_a_value_give_no_law(folders: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", 2e13, problems="other")
    with pytest.raises(ValueError, match="the runs have 2 different problems of the task"):
        read_table([*folders[:3], other], metric=COPY)
    for number, value in enumerate((0.0, float("inf"), float("nan"))):
        bad = write_run(tmp_path / f"{number}", 2e13, more={COPY: value})
        with pytest.raises(ValueError, match=f"has {COPY} = {value}, which is not a positive number: leave it out"):
            read_table([*folders[:3], bad], metric=COPY)
    assert len(read_table([*folders[:3], other]).runs) == 4, "the loss does not depend on the problems"


def test_a_table_has_a_column_for_a_metric(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"C,loss,{COPY}\n1e15,3.0,20\n1e16,2.9,15\n1e17,2.8,12\n")
    assert read_table([path], metric=COPY).losses.tolist() == [20, 15, 12]
    assert read_table([path]).losses.tolist() == [3.0, 2.9, 2.8]
    with pytest.raises(ValueError, match="has no neg_log_pass_rate/recall: add the column 'neg_log_pass_rate/recall'"):
        read_table([path], metric="neg_log_pass_rate/recall")


def test_pictures_say_what_is_drawn() -> None:
    assert label_of("val_loss") == "loss (nats per token)" and label_of(COPY) == f"{COPY} (nats)"
    assert label_of("val_loss/web") == "val_loss/web (nats per token)"


def test_a_tally_keeps_metrics_apart(prediction_file: Path, tmp_path: Path) -> None:
    found = PredictionRecord.read(prediction_file)
    for metric in (COPY, "val_loss"):
        each, name = replace(found, metric=metric, problems_sha256=""), metric.partition("/")[0]
        seal = each.write(tmp_path / f"{name}.json")
        run = RunFacts(name="runs/large", loss=found.loss, metric=metric, flops=1e17)
        score(each, run, AFTER).record("runs/large", seal).write(tmp_path / f"{name}.score.json")
    ended = called("tally", tmp_path)
    assert ended.exit_code == 0, ended.output
    assert ended.output.count("1 of 1") == 6 and f"{COPY}:" in ended.output and "val_loss:" in ended.output
    ended = called("tally", tmp_path, "--plot", tmp_path / "a.png")
    assert ended.exit_code == 2 and "a picture has one metric" in ended.output


def test_a_run_that_will_not_be_evaluated_on_the_problems_of_the_fit_is_not_predicted(corpus: Path) -> None:
    config = Config(model=ModelConfig(d_model=32, num_heads=2, seq_len=64), data=DataConfig(path=str(corpus)))
    asked: dict[str, Any] = {"embeddings": True, "metric": COPY, "problems_sha256": PROBLEMS}
    with pytest.raises(ValueError, match=r"eval_tasks = \[\]: add copy, so that the run can be scored"):
        target_of(config, **asked)
    few = replace(config, train=TrainConfig(eval_tasks=["copy"], eval_problems=64))
    with pytest.raises(ValueError, match=r"on other problems than the 64 of this config: set train\.eval_problems"):
        target_of(few, **asked)
    same = replace(config, train=TrainConfig(eval_tasks=["copy"]))
    assert target_of(same, **asked).flops == Description.of(prepare_run(same)).flops
