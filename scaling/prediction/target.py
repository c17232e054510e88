"""The run whose loss is predicted, from its config or from numbers, and when a run has started."""

import math
from datetime import UTC, datetime
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.scaling.laws.metric import task_of
from foretrain.scaling.prediction.predict import Target
from foretrain.scaling.prediction.record import PredictionRecord
from foretrain.scaling.prediction.table import SAME
from foretrain.trainer.goodput import facts
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS, read_metrics
from foretrain.trainer.prediction.target import schedule_shape, settings_of
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import PREDICTION_FILE
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.tasks.base import fingerprint, problems_of
from foretrain.trainer.tasks.held_out_text import HeldOutText


def target_of(config: Config, *, embeddings: bool, metric: str = VAL_LOSS, problems_sha256: str = "") -> Target:
    """The target that a config describes. Its corpus must be there: it decides the vocabulary and the tokens.

    `embeddings`: whether N counts them. `metric`: what is predicted. `problems_sha256`: if that is a metric of a task,
    the fingerprint of its problems, as the fit has it. Raises ValueError if the config cannot be trained, or if its run
    would not be evaluated on these problems.
    """
    _check_evaluated(config, metric)
    run = prepare_run(config)
    _check_problems(run, metric, problems_sha256)
    found = Description.of(run)
    known = {**vars(found), "parametrization": run.config.mup.parametrization, "seq_len": run.config.model.seq_len}
    return Target(
        num_params=float(found.num_params if embeddings else found.num_params_without_embeddings),
        num_tokens=float(found.num_tokens),
        flops=float(found.flops),
        same={field: known[field] for field in SAME if known[field]},
        settings={"model": run.config.model.name, **settings_of(run.config)},
        schedule=schedule_shape(run.config.schedule, run.config.train.num_tokens),
    )


def _check_evaluated(config: Config, metric: str) -> None:
    """Raise ValueError if a run of the config has no such metric in the end."""
    task, train = task_of(metric), config.train
    if task and task not in train.eval_tasks:
        raise ValueError(
            f"the fit is of {metric}, and the config's train.eval_tasks = {train.eval_tasks}: add {task}, so that the "
            "run can be scored"
        )


def _check_problems(run: Run, metric: str, problems_sha256: str) -> None:
    """Raise ValueError if the run would be evaluated on other problems than those of the fit."""
    task, count = task_of(metric), run.config.train.eval_problems
    if not task or not problems_sha256:
        return
    if fingerprint(problems_of(task, count, HeldOutText.of(run.data))) != problems_sha256:
        raise ValueError(
            f"the fit is of {metric} on other problems than the {count} of this config: set train.eval_problems to "
            "that of the runs of the fit, with the same version of the task, and the same data if its problems are of "
            "held-out text"
        )


def target_of_numbers(num_params: float | None, num_tokens: float | None, flops: float | None) -> Target:
    """The target with these N, D and C; C is 6 N D if it is not given. Raises ValueError if it cannot be known."""
    for name, value in (("--params", num_params), ("--tokens", num_tokens), ("--flops", flops)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} {value:g} is not a positive number")
    if flops is None:
        if num_params is None or num_tokens is None:
            raise ValueError("give a config, or --flops, or --params and --tokens")
        flops = 6.0 * num_params * num_tokens
        if not math.isfinite(flops):
            raise ValueError(f"--params {num_params:g} and --tokens {num_tokens:g} need infinite FLOPs: lower one")
    return Target(num_params, num_tokens, flops, {}, {})


def own_prediction(run_dir: Path) -> Path:
    """The sealed prediction with which a run was compared: its file if that is still there, else the run's copy.

    Raises ValueError if the run had none, or if the copy is not the one that the run's metrics name.
    """
    events = []
    if (run_dir / METRICS_FILE).is_file():
        events = [record for record in read_metrics(run_dir / METRICS_FILE) if record["kind"] == "prediction"]
    if not events:
        raise ValueError(f"{run_dir} was trained without train.prediction: give --prediction FILE")
    seal = events[-1]["seal"]
    for path in (Path(events[-1]["path"]), run_dir / PREDICTION_FILE):
        if path.is_file() and PredictionRecord.read_with_seal(path)[1] == seal:
            return path
    raise ValueError(
        f"{run_dir / PREDICTION_FILE} is not the prediction of the run, whose seal begins with {seal[:16]}: restore "
        "it, or give --prediction FILE"
    )


def start_of(run_dir: Path) -> datetime | None:
    """When a run was launched or started first, in UTC; None if its folder does not say.

    A folder whose first session continued from a later step does not: its first steps were done somewhere else.
    """
    found = facts.read(run_dir)
    first_step = next((fact.step for fact in found if fact.kind == "begin"), None)
    return datetime.fromtimestamp(min(fact.at_s for fact in found), UTC) if first_step == 0 else None
