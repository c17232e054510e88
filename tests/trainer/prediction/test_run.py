"""A run with `train.prediction`: it is refused if it is another run, compares its loss, and continues after a stop."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foretrain.configs import load as configs
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.scaling.prediction.record import PredictionRecord
from foretrain.scaling.prediction.target import target_of
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.plots import loss_curve
from foretrain.trainer.prediction.course import Noise
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.sealed import SEAL, seal_of
from foretrain.trainer.prediction.target import schedule_shape
from foretrain.trainer.prediction.windows import EDGES, NUM_WINDOWS
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import CONFIG_FILE, PREDICTION_FILE
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.terminal import TerminalSink
from tests.cli import assert_refused, called
from tests.conftest import RunOnRanks
from tests.trainer import test_resume
from tests.trainer.test_resume import LAYOUTS, curve, train

LAYOUT = LAYOUTS["one process"]


def config(run_dir: Path, corpus: Path, layout: ParallelConfig, **train: Any) -> Config:
    """Seven steps, with an evaluation at the end."""
    return test_resume.config(run_dir, corpus, layout, **{"eval_every": 0, **train})


def curve_of(config: Config, loss: float) -> PredictedCurve:
    """A curve that is flat at `loss`."""
    num_tokens = config.train.num_tokens
    return PredictedCurve(
        edges=EDGES.tolist(),
        tokens=[round(edge * num_tokens) for edge in EDGES[1:]],
        loss=[loss] * NUM_WINDOWS,
        bounds={level: [[0.9 * loss, 1.1 * loss]] * NUM_WINDOWS for level in ("0.8", "0.9", "0.95")},
        noise=vars(Noise(0.05, [0.05] * NUM_WINDOWS, 0.2, 0.2, 0.8)),
        limits={"level": 6.0, "change": 4.0},
        false_alarm=0.01,
        schedule=schedule_shape(config.schedule, num_tokens),
        final_ratio=1.0,
    )


def sealed(config: Config, path: Path, loss: float = 3.0, **changes: Any) -> str:
    """Seal a prediction for the config into a file, and return its name. `changes`: to the prediction."""
    target = target_of(config, embeddings=True)
    sizes = {"N": target.num_params, "D": target.num_tokens, "C": target.flops}
    known: dict[str, Any] = {
        "target": {**sizes, **target.same},
        "loss": loss,
        "intervals": {"0.9": [0.9 * loss, 1.1 * loss]},
        "mean_intervals": {"0.9": [0.95 * loss, 1.05 * loss]},
        "ratio": 4.0,
        "fit": {},
        "curve": curve_of(config, loss).to_dict(),
        "time": datetime(2020, 1, 1, tzinfo=UTC).isoformat(),
    }
    PredictionRecord(**(known | changes)).write(path)
    return str(path)


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == kind]


@pytest.mark.parametrize("layout", ["one process", pytest.param("tp=2 pp=2 sp", marks=pytest.mark.long)])
def test_a_run_that_is_stopped_and_resumed_is_compared_as_one_that_was_not(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    plain = config(tmp_path / "plain", corpus, LAYOUTS[layout])
    path = sealed(plain, tmp_path / "sealed.json")
    complete = train(ranks, config(tmp_path / "complete", corpus, LAYOUTS[layout], prediction=path))
    for stop in (3, None):
        records = train(ranks, config(tmp_path / "parts", corpus, LAYOUTS[layout], prediction=path, stop_after=stop))
    assert len(of_kind(records, "prediction")) == 2, "each start says which prediction it has"
    assert [each for each in records if each["kind"] != "prediction"] == [
        each for each in complete if each["kind"] != "prediction"
    ]
    (left,) = of_kind(complete, "left_prediction")
    assert left["prediction_z"] > 3 and left["predicted_loss"] == 3.0, "the loss is about 5.7"
    assert [each["prediction_z"] > 3 for each in of_kind(complete, "train")] == [True] * test_resume.NUM_STEPS


def test_a_run_inside_of_its_band_raises_no_alarm_and_keeps_its_prediction(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path / "run", corpus, LAYOUT)
    path = sealed(settings, tmp_path / "sealed.json", 5.6)
    records = train(ranks, replace(settings, train=replace(settings.train, prediction=path)))
    assert not of_kind(records, "left_prediction")
    (announced,) = of_kind(records, "prediction")
    kept = PredictionRecord.read_with_seal(tmp_path / "run" / PREDICTION_FILE)
    assert kept == PredictionRecord.read_with_seal(Path(path)) and announced["seal"] == kept[1]

    run = str(tmp_path / "run")
    Description.of(prepare_run(settings)).write(tmp_path / "run")
    configs.save(settings, tmp_path / "run" / CONFIG_FILE)
    ended = called("score", run, cwd=tmp_path)
    assert ended.status == 0 and "predicted 5.6000, measured 5." in ended.out, ended.err
    assert (tmp_path / "sealed.score.json").exists(), "a tally of the folder of the prediction finds it"
    Path(path).unlink()
    assert called("score", run, cwd=tmp_path).status == 0, "the copy of the run is enough"
    sealed(settings, tmp_path / "run" / PREDICTION_FILE, 5.5)
    assert_refused(called("score", run, cwd=tmp_path), "prediction.json is not the prediction of the run", "restore it")


def test_a_run_without_a_prediction_cannot_be_scored_without_one(tmp_path: Path) -> None:
    assert_refused(called("score", str(tmp_path), cwd=tmp_path), "was trained without train.prediction: give --predict")


def test_a_prediction_without_a_curve_is_kept_and_says_why(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    settings = config(tmp_path / "run", corpus, LAYOUT)
    path = sealed(settings, tmp_path / "sealed.json", curve={"refused": "runs.csv:2 comes from a table"})
    records = train(ranks, replace(settings, train=replace(settings.train, prediction=path)))
    assert len(of_kind(records, "prediction")) == 1 and not any("prediction_z" in record for record in records)


def test_another_prediction_after_a_stop_knows_the_steps_from_then_on(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    plain = config(tmp_path / "run", corpus, LAYOUT)
    for stop, name, loss in ((3, "low", 3.0), (None, "right", 5.6)):
        path = sealed(plain, tmp_path / f"{name}.json", loss)
        train(ranks, config(tmp_path / "run", corpus, LAYOUT, prediction=path, stop_after=stop))
    records = curve(tmp_path / "run")
    assert [each["step"] for each in of_kind(records, "left_prediction")] == [1]
    assert [abs(each["prediction_z"]) < 2 for each in of_kind(records, "train")] == [False] * 3 + [True] * 4


def another(tokens: int | None = None, **sections: Any) -> Callable[[Config], Config]:
    def changed(config: Config) -> Config:
        config = replace(config, **sections)
        return replace(config, train=replace(config.train, num_tokens=tokens or config.train.num_tokens))

    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another(2 * 8 * 32 * 7), ["for D = 1792, and the run has 3584", "for C = "]),
        (another(schedule=ScheduleConfig("linear", 256)), ["its curve is for another schedule: schedule kind cosine"]),
        (another(schedule=ScheduleConfig(warmup_tokens=512)), ["warmup_share 0.1429 and 0.2857"]),
        (
            lambda config: replace(config, model=replace(config.model, d_model=16), schedule=ScheduleConfig("linear")),
            ["for N = ", "for C = ", "schedule kind", "schedule warmup_share"],
        ),
    ],
)
def test_another_run_is_refused_in_a_line_with_every_reason(
    change: Callable[[Config], Config], words: list[str], tmp_path: Path, corpus: Path
) -> None:
    plain = config(tmp_path / "run", corpus, LAYOUT)
    path = sealed(plain, tmp_path / "sealed.json")
    with_prediction = replace(plain, train=replace(plain.train, prediction=path))
    assert prepare_run(with_prediction).prediction is not None
    with pytest.raises(ValueError, match=r"train\.prediction: .* is for another run: ") as refused:
        prepare_run(change(with_prediction))
    assert [word for word in words if word not in str(refused.value)] == [] and "\n" not in str(refused.value)


def test_other_data_are_refused(tmp_path: Path, corpus: Path) -> None:
    plain = config(tmp_path / "run", corpus, LAYOUT)
    target = target_of(plain, embeddings=True)
    path = sealed(plain, tmp_path / "sealed.json", target={"N": target.num_params, "data_fingerprint": "other"})
    with pytest.raises(ValueError, match="is for the data_fingerprint other, and the run has "):
        prepare_run(replace(plain, train=replace(plain.train, prediction=path)))


def resealed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A prediction with other values, and the seal of those."""
    return {**values, **changes, SEAL: seal_of({**values, **changes})}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values | {"loss": 2.9}, "was changed after it was sealed: restore it"),
        (lambda values: values | {"kind": "fit"}, "is not a prediction"),
        (lambda values: values | {"version": 99}, "was written by a newer foretrain"),
        (lambda values: [], "is not a prediction"),
        (lambda values: resealed(values, target=None), "lacks the loss, the target or the curve of a prediction"),
        (lambda values: resealed(values, loss="low"), "lacks the loss, the target or the curve of a prediction"),
        (lambda values: resealed(values, curve={"edges": 1}), "its curve cannot be read: its edges is 1"),
        (None, "cannot be read (No such file or directory): correct the path"),
    ],
)
def test_a_file_that_is_no_sealed_prediction_is_refused(
    change: Callable[[Any], Any] | None, words: str, tmp_path: Path, corpus: Path
) -> None:
    plain, path = config(tmp_path / "run", corpus, LAYOUT), tmp_path / "sealed.json"
    sealed(plain, path)
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=r"train\.prediction: ") as refused:
        prepare_run(replace(plain, train=replace(plain.train, prediction=str(path))))
    assert words in str(refused.value) and str(path) in str(refused.value)


def test_the_band_is_drawn_behind_the_measured_curve(tmp_path: Path, corpus: Path) -> None:
    lines = [{"kind": "train", "step": step, "tokens": 256 * step, "loss": 5.0, "lr": 1e-3} for step in range(1, 8)]
    (tmp_path / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    predicted = curve_of(config(tmp_path, corpus, ParallelConfig()), 4.0)
    for name, given in (("with", predicted), ("without", None)):
        loss_curve(tmp_path / METRICS_FILE, tmp_path / f"{name}.png", predicted=given)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_the_terminal_shows_the_distance_from_the_prediction(tmp_path: Path, corpus: Path) -> None:
    console = Console(file=StringIO(), width=120)
    sink = TerminalSink(console)
    run = prepare_run(config(tmp_path, corpus, LAYOUT, log_every=1))
    sink.open(Session(run.config, run.run_dir, 0, 7, 256))
    known = {"step": 1, "loss": 5.0, "grad_norm": 1.0, "lr": 1e-3, "step_s": 0.1}
    sink.step({**known, "prediction_z": -1.25, "predicted_loss": 5.5})
    sink.step({**known, "step": 2})
    sink.close()
    assert isinstance(console.file, StringIO)
    first, second = console.file.getvalue().splitlines()
    assert "loss 5.0000  -1.2 sd of 5.5000" in first and "sd of" not in second
