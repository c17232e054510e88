"""Sinks: what receives the report of a run. `JsonLinesSink` and `RunLogSink` are always used."""

from foretrain.trainer.sinks.base import SINKS, Reporter, Session, Sink
from foretrain.trainer.sinks.json_lines import JsonLinesSink
from foretrain.trainer.sinks.mlflow import MlflowSink
from foretrain.trainer.sinks.prometheus import PrometheusSink
from foretrain.trainer.sinks.run_log import RunLogSink
from foretrain.trainer.sinks.tensorboard import TensorBoardSink
from foretrain.trainer.sinks.terminal import TerminalSink
from foretrain.trainer.sinks.wandb import WandbSink

__all__ = [
    "SINKS",
    "JsonLinesSink",
    "MlflowSink",
    "PrometheusSink",
    "Reporter",
    "RunLogSink",
    "Session",
    "Sink",
    "TensorBoardSink",
    "TerminalSink",
    "WandbSink",
]

SINKS.register("terminal", TerminalSink)
SINKS.register("tensorboard", TensorBoardSink)
SINKS.register("prometheus", PrometheusSink)
SINKS.register("mlflow", MlflowSink)
SINKS.register("wandb", WandbSink)
