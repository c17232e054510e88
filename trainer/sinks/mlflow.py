"""The sink that sends the curve of a run to MLflow."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from foretrain.configs.keys import changes_curve
from foretrain.configs.load import values_of
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.extra import need_library
from foretrain.trainer.sinks.follower import Point
from foretrain.trainer.sinks.tracker import Tracker, TrackerSink

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "foretrain.run"
"""The tag of an MLflow run by which a later start of a run finds it."""
URI_VARIABLE = "MLFLOW_TRACKING_URI"
MAX_METRICS, MAX_PARAMS, MAX_PARAM_CHARS = 1000, 100, 500
"""Limits of MLflow for one request, and for the value of a parameter."""
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sink tries again
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run sends what it was asked to, where it was asked to
}
"""Variables of the library that are set unless they are set already."""


class MlflowSink(TrackerSink):
    """Sends the numbers of steps and evaluations as metrics (`train/loss`, `eval/val_loss`, `eval/val_loss.web`), and
    the settings that decide the curve as parameters. All starts of a run are one MLflow run.

    MLflow forgets no metric. After a run went back, the steps that it took again have two values there, of which the
    later one, by its time, is that of metrics.jsonl.
    """

    name = "mlflow"
    options: ClassVar[Mapping[str, str]] = {"tracking_uri": "", "experiment": "foretrain"}
    settings = options

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        need_library("mlflow", "mlflow")
        if not settings["tracking_uri"] and not os.environ.get(URI_VARIABLE):
            raise ValueError(
                "tracking_uri is not set: set train.sink_options.mlflow.tracking_uri to the URL of the server, or "
                f"{URI_VARIABLE} in the environment of the ranks"
            )
        if not settings["experiment"]:
            raise ValueError("experiment is empty: name one, or leave it out")

    def open(self, session: Session) -> str | None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)  # before the thread starts: C code reads the environment without a lock
        super().open(session)
        return f"metrics go to MLflow, experiment {self.settings['experiment']}"

    def connect(self, session: Session, key: str) -> Tracker:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient(tracking_uri=self.settings["tracking_uri"] or None)
        experiment = client.get_experiment_by_name(self.settings["experiment"])
        number = experiment.experiment_id if experiment else client.create_experiment(self.settings["experiment"])
        found = client.search_runs([number], f"tags.`{TAG}` = '{key}'", max_results=1)
        run = found[0] if found else client.create_run(number, tags={TAG: key}, run_name=session.run_dir.name)
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        if not run.data.params:
            params = [
                Param(name, str(value)[:MAX_PARAM_CHARS])
                for name, value in values_of(session.config).items()
                if changes_curve(name)
            ]
            for start in range(0, len(params), MAX_PARAMS):
                client.log_batch(run.info.run_id, params=params[start : start + MAX_PARAMS])
        return _MlflowRun(client, run.info.run_id)


class _MlflowRun:
    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        # A point that is sent again has its time of before, so that MLflow's databases keep it once.
        metrics = [
            Metric(_mlflow_name(name), value, each.time_ms, each.step)
            for each in points
            for name, value in each.values.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + MAX_METRICS])

    def close(self, is_complete: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if is_complete else "KILLED")


def _mlflow_name(name: str) -> str:
    """eval/val_loss/web as eval/val_loss.web: in MLflow's files, eval/val_loss cannot be a metric and a folder."""
    kind, _, metric = name.partition("/")
    return f"{kind}/{metric.replace('/', '.')}"
