"""foretrain: its engine in a bare loop, and its complete training loop, each with and without compilation."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.train.loop import loop
from benchmarks.train.pace import FinishedError, Job, Pace
from benchmarks.train.weights import norm_of_state
from foretrain.configs.schema import Config
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.api import process_groups
from foretrain.trainer.build import build_engine
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.trainer import Trainer

TIMEOUT_S = 600.0


def engine(job: Job, *, is_compiled: bool = False) -> None:
    """The engine as `foretrain train` uses it, in a loop that does nothing else."""
    config = _config(job, is_compiled)
    groups = init_groups(Layout.from_config(config.parallel), job.task.device, TIMEOUT_S)
    built, state = build_engine(config, groups)
    built.set_lr(1.0)

    def step(tokens_BL: Tensor, targets_BL: Tensor) -> tuple[float, float]:
        result = built.train_step(tokens_BL, targets_BL)
        return result.loss, result.grad_norm

    loop(job, step, partial(norm_of_state, state))
    destroy_groups()


def trainer(job: Job, *, is_compiled: bool = False) -> None:
    """All that `foretrain train` does: data, metrics, checks, sinks and the display."""
    run = prepare_run(_config(job, is_compiled))
    with process_groups(run) as groups, suppress(FinishedError):
        Trainer(run, groups, callbacks=[_Paced(job.pace)]).fit()


class _Paced(Callback):
    """Ends each step of the run at the pace, and so counts one complete turn of its loop."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def on_fit_start(self, trainer: Any) -> None:
        self._pace.report_ready(partial(norm_of_state, trainer.state))

    def after_step(self, trainer: Any, step: Step) -> None:
        self._pace.end_step(step.metrics["loss"], step.metrics["grad_norm"])


def _config(job: Job, is_compiled: bool) -> Config:
    config = job.task.config(job.shared, job.own / "run")
    return replace(config, train=replace(config.train, compile=is_compiled))
