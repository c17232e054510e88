"""The curve of a run in MLflow, as its own library reads it back, and a server of it that fails."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, TrainConfig
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.run.setup import check_without_data
from foretrain.trainer.sinks import JsonLinesSink, MlflowSink, Reporter, Session
from tests.required import need_module
from tests.trainer.failing_server import failing_server
from tests.trainer.test_progress import train_metrics


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    need_module("mlflow")
    for name, value in {
        "MLFLOW_ALLOW_FILE_STORE": "true",  # a server or a database would need more packages
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)


@contextmanager
def reporting(uri: str, run_dir: Path, start: int, total: int, close_s: float = 60.0) -> Iterator[Reporter]:
    sink = MlflowSink()
    sink.settings = {"tracking_uri": uri, "experiment": "curves"}
    sink.pause_s, sink.close_s = 0.0, close_s
    with Reporter([JsonLinesSink(), sink], Session(Config(), run_dir, start, total, 100)) as report:
        yield report


@pytest.mark.long
def test_mlflow_has_the_curve_of_all_starts_as_one_run_with_the_settings_that_decide_it(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    client = MlflowClient(tracking_uri=uri)

    def runs() -> list[Any]:
        return list(client.search_runs([client.get_experiment_by_name("curves").experiment_id]))

    with reporting(uri, tmp_path / "a run", 0, 6) as report:
        for step in range(1, 6):
            report.step(train_metrics(step, loss=math.nan if step == 2 else 1.0 / step))
        report.evaluation(5, HeldOutLoss(2.5, {"web": 2.75}))
    (run,) = runs()
    assert (run.info.run_name, run.info.status) == ("a run", "KILLED")
    with reporting(uri, tmp_path / "a run", 4, 6) as report:  # it takes step 5 again
        for step in (5, 6):
            report.step(train_metrics(step, loss=2.0 / step))
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001" and "train.log_every" not in run.data.params
    history = sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda each: each.timestamp)
    latest = {each.step: each.value for each in history}
    assert [each.step for each in history] == [1, 2, 3, 4, 5, 5, 6]
    assert math.isnan(latest.pop(2)) and latest == {1: 1.0, 3: 1 / 3, 4: 0.25, 5: 0.4, 6: 1 / 3}
    assert run.data.metrics["eval/val_loss.web"] == 2.75


@pytest.mark.long
@pytest.mark.parametrize("stalls", [False, True])
def test_a_server_that_fails_or_does_not_answer_neither_stops_nor_keeps_a_run(
    stalls: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_server(stalls) as (uri, num_requests):
        with reporting(uri, tmp_path, 0, 5, close_s=10.0) as report:
            for step in range(1, 6):
                report.step(train_metrics(step))
        assert num_requests() > 0
    assert "mlflow gets no metrics now (MlflowException:" in caplog.text
    assert "mlflow lacks the steps after 0" in caplog.text
    with reporting((tmp_path / "store").as_uri(), tmp_path, 5, 5):
        pass
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("curves").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 5


def test_mlflow_without_the_address_of_a_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(train=TrainConfig(sinks=["mlflow"]))
    with pytest.raises(ValueError, match=r"^train.sinks has 'mlflow': tracking_uri is not set: set train\.sink_opt"):
        check_without_data(config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_without_data(config)
