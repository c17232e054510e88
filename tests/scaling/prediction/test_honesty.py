"""No score of another run, no shadowed score, and no changed file is taken for an honest one."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig, ScheduleConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.scaling.prediction.folder import read_folder
from foretrain.scaling.prediction.predict import predict
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.scaling.prediction.score import score
from foretrain.trainer.prediction.sealed import SEAL, seal_of
from foretrain.trainer.prediction.target import settings_of
from tests.scaling.prediction.test_predict import AFTER, BEFORE, called, measured, record_of, runs, target


@pytest.fixture(scope="module")
def predicted() -> PredictionRecord:
    return predict(record_of(runs()), "seal", replace(target(), settings=settings_of(Config())))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(optimizer=OptimizerConfig(weight_decay=0.2)), "optimizer.weight_decay = 0.1, and the run has 0.2"),
        (Config(optimizer=OptimizerConfig(kind="sgd")), "optimizer.kind = adamw, and the run has sgd"),
        (Config(schedule=ScheduleConfig(min_factor=0.5)), "schedule.min_factor = 0.1, and the run has 0.5"),
        (Config(train=TrainConfig(seed=3)), "train.seed = 0, and the run has 3"),
        (Config(train=TrainConfig(eval_samples=1)), "train.eval_samples = 64, and the run has 1"),
        (
            Config(train=TrainConfig(eval_standard_error=0.1)),
            "train.eval_standard_error = None, and the run has 0.1",
        ),
    ],
)
def test_a_run_with_another_config_seed_or_held_out_samples_does_not_count(
    config: Config, words: str, predicted: PredictionRecord
) -> None:
    run = replace(measured(predicted.loss, target()), config=config)
    assert score(predicted, run, AFTER).problems == [f"the prediction is for {words}"]


def test_where_a_run_is_and_how_it_is_laid_out_is_not_compared(predicted: PredictionRecord) -> None:
    config = Config(run_dir="elsewhere", data=DataConfig(path="other"), train=TrainConfig(checkpoint_every=3))
    assert score(predicted, replace(measured(predicted.loss, target()), config=config), AFTER).counts


def test_a_run_whose_data_were_changed_before_its_end_does_not_count(predicted: PredictionRecord) -> None:
    run = replace(measured(predicted.loss, target()), data_changes=("data.sources.web.weight: 0.7 -> 0.6",))
    assert score(predicted, run, AFTER).problems == [
        "the data of the run were changed before its end: data.sources.web.weight: 0.7 -> 0.6"
    ]


@pytest.mark.parametrize("time", ["", "yesterday", "2026-01-01T00:00:00"])
def test_a_prediction_without_a_time_of_its_seal_counts_for_no_run(time: str, predicted: PredictionRecord) -> None:
    (problem,) = score(replace(predicted, time=time), measured(predicted.loss, target()), AFTER).problems
    assert problem.startswith("the prediction does not say when it was sealed")


def test_a_score_that_does_not_count_hides_none_that_does(predicted: PredictionRecord, tmp_path: Path) -> None:
    seal = predicted.write(tmp_path / "a.json")
    for name, began, loss, time in (("known", BEFORE, 1.0, "2030"), ("real", AFTER, 2.0, "2031")):
        record = score(predicted, measured(loss * predicted.loss, target()), began).record(name, seal)
        replace(record, time=f"{time}-01-01T00:00:00+00:00").write(tmp_path / f"{name}.score.json")
    assert [each.error for each in read_folder(tmp_path).scored] == [pytest.approx(-0.5)]


def test_the_run_that_began_first_counts_whenever_it_is_scored(predicted: PredictionRecord, tmp_path: Path) -> None:
    seal = predicted.write(tmp_path / "a.json")
    for name, days, loss, time in (("lucky", 1, 1.0, "2030"), ("first", 0, 2.0, "2031")):
        run = measured(loss * predicted.loss, target())
        record = score(predicted, run, AFTER + timedelta(days=days)).record(name, seal)
        replace(record, time=f"{time}-01-01T00:00:00+00:00").write(tmp_path / f"{name}.score.json")
    assert [each.error for each in read_folder(tmp_path).scored] == [pytest.approx(-0.5)]


def test_a_tally_names_removed_predictions_and_those_of_one_run(predicted: PredictionRecord, tmp_path: Path) -> None:
    found = score(predicted, measured(predicted.loss, target()), AFTER)
    for number in range(3):
        seal = replace(predicted, code=str(number)).write(tmp_path / f"{number}.json")
        found.record("runs/large", seal).write(tmp_path / f"{number}.score.json")
    (tmp_path / "2.json").unlink()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "1.json").write_text((tmp_path / "1.json").read_text())
    tally = read_folder(tmp_path)
    assert len(tally.scored) == 2
    assert tally.notes == [
        f"{tmp_path}/0.json and {tmp_path}/1.json are predictions of one run: they are not independent of each other",
        f"{tmp_path}/2.score.json: its prediction is missing, whose seal begins with {seal[:16]}: restore it",
    ]


def test_a_tally_computes_errors_and_hits_from_the_prediction(predicted: PredictionRecord, tmp_path: Path) -> None:
    seal = predicted.write(tmp_path / "a.json")
    record = score(predicted, measured(2 * predicted.loss, target()), AFTER).record("runs/large", seal)
    flattered = replace(record, error=0.0, inside=dict.fromkeys(record.inside, True))
    flattered.write(tmp_path / "a.score.json")
    (found,) = read_folder(tmp_path).scored
    assert found.error == pytest.approx(-0.5) and not any(found.inside.values())


def resealed(values: dict[str, Any]) -> str:
    return json.dumps({**values, SEAL: seal_of(values)})


def test_damaged_files_are_refused_in_one_line_that_names_them(predicted: PredictionRecord, tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    record_of(runs()).write(path)
    text = path.read_text()
    values = json.loads(text)
    damaged = {
        "it has NaN, which no sealed file has": json.dumps({**values, "objective": float("nan")}),
        "it has 'objective' twice": '{"objective": 0.5,' + text[1:],
        "was changed after it was sealed": json.dumps({**values, "version": "1"}),
        "maximum recursion depth": "[" * 200_000,
        "is not a complete fit": resealed({name: value for name, value in values.items() if name != "law"}),
        "run 0 has no C": resealed({**values, "runs": [{"name": "a", "loss": 3.0}, *values["runs"]]}),
    }
    for words, content in damaged.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=r"fit\.json") as refused:
            FitRecord.read(path)
        assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--flops", "nan"), "--flops nan is not a positive number"),
        (("--params", "inf", "--tokens", "1"), "--params inf is not a positive number"),
        (("--params", "1e300", "--tokens", "1e300"), "need infinite FLOPs"),
        (("runs/dry_run", "--flops", "1e20"), "runs/dry_run says N, D and C: leave --params, --tokens and --flops out"),
    ],
)
def test_numbers_that_are_none_or_not_used_are_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    record_of(runs()).write(tmp_path / "fit.json")
    ended = called("predict", "--fit", tmp_path / "fit.json", *arguments)
    assert ended.exit_code == 2 and words in ended.output
