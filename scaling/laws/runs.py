"""The runs that laws are fitted to: their sizes, losses and origins, from run folders or from rows of a table.

    runs, problems = read_runs(["sweeps/lr", "runs/large"])

Only files are read, and no torch is needed. What N, D and C count is defined in `trainer/model/size.py`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from foretrain.configs import load as configs
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config
from foretrain.scaling.laws.metric import task_of
from foretrain.scaling.records import LADDER_FILE, SWEEP_FILE, TRIALS
from foretrain.scaling.trials.curve import diverged_at
from foretrain.scaling.trials.record import steps_of
from foretrain.trainer.metrics import METRICS_FILE, TASK, VAL_LOSS, error_of, read_metrics
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.folder import CONFIG_FILE, DESCRIPTION_FILE, ENVIRONMENT_FILE

COLUMNS = {
    "loss": "loss",
    "loss_error": "loss_error",
    "N": "num_params",
    "N_without_embeddings": "num_params_without_embeddings",
    "D": "num_tokens",
    "C": "flops",
}
"""The columns of a table that hold numbers, and what they are called here. Only `loss` is needed."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run, as laws of the loss see it. What is None or "" is not known."""

    name: str
    """Its folder, or the place of its row."""
    loss: float
    """Held-out loss after the last step, nats per token; or what `metric` names in its place."""
    metric: str = VAL_LOSS
    """What `loss` is, as the metrics of runs call it."""
    problems_sha256: str = ""
    """If `metric` is that of a task: the fingerprint of its problems."""
    loss_error: float | None = None
    """Standard error of this loss over held-out samples; the noise of seeds is not in it."""
    num_held_out_samples: int | None = None
    """Held-out samples of this loss. Runs on one held-out split with one `seq_len` and equal numbers took the same
    ones; None in a run of an older version, which took the first ones."""
    num_params: float | None = None
    """N: parameters in all."""
    num_params_without_embeddings: float | None = None
    """N without embeddings."""
    num_tokens: float | None = None
    """D: tokens trained."""
    flops: float | None = None
    """C: FLOPs of training on them."""
    seed: int | None = None
    """Seed of the initial weights."""
    group: str = ""
    """What a table calls the runs that belong together, such as those of one ladder."""
    is_finished: bool = True
    """Whether the budget is used up. If not, loss, D and C are those of the last evaluation."""
    tokens_per_step: int | None = None
    """Tokens of a global batch."""
    seq_len: int | None = None
    parametrization: str = ""
    schedule: ScheduleConfig | None = None
    """Kind and settings of the learning rate's schedule, in tokens."""
    tokenizer_sha256: str = ""
    data_fingerprint: str = ""
    """Changes with any token of the train split, and with the tokenizer."""
    held_out_fingerprint: str = ""
    """Changes with any token of the held-out split."""
    mixture_fingerprint: str = ""
    """Changes with the mixture, order and packing of the data."""
    data_changes: tuple[str, ...] = ()
    """Changes of the data during the run, which the user allowed, in words; the fingerprints are those at its end."""
    code: str = ""
    """Version of the code that started the run last."""
    parent: str = ""
    """The checkpoint of another run from which the run was started."""
    metrics_sha256: str = ""
    """SHA-256 of the file with its metrics."""
    config: Config | None = field(default=None, repr=False)
    """All settings of the run."""

    def variable(self, name: str, *, embeddings: bool = True) -> float | None:
        """N, D or C, as laws name their variables. `embeddings`: whether N counts them. None: it is not known."""
        num_params = self.num_params if embeddings else self.num_params_without_embeddings
        return {"N": num_params, "D": self.num_tokens, "C": self.flops}[name]

    @classmethod
    def of_folder(cls, folder: Path | str, *, must_be_finished: bool = True, metric: str = VAL_LOSS) -> Self:
        """The run in a folder, with a metric of its evaluations as its loss.

        Raises ValueError, in one line with what to do, if the folder lacks what is needed.
        """
        folder = Path(folder)
        if not (folder / METRICS_FILE).is_file():
            what = f"it has no {METRICS_FILE}" if folder.is_dir() else "there is no such folder"
            raise ValueError(f"{folder} is not the folder of a run: {what}")
        description, config = _description(folder), _config(folder)
        records = read_metrics(folder / METRICS_FILE)
        step = max((record["step"] for record in records if record["kind"] == "train"), default=0)
        is_finished = step >= description.num_steps
        if must_be_finished and not is_finished:
            raise ValueError(f"{folder} {_why_unfinished(records, config, description.num_steps)}, or leave it out")
        evaluation = _last_evaluation(folder, records, step if is_finished else None, metric)
        num_tokens = evaluation["step"] * description.tokens_per_step
        return cls(
            name=str(folder),
            loss=evaluation[metric],
            metric=metric,
            problems_sha256=_problems_sha256(records, metric),
            loss_error=evaluation.get(error_of(metric)),
            num_held_out_samples=evaluation.get("val_samples"),
            num_params=description.num_params,
            num_params_without_embeddings=description.num_params_without_embeddings,
            num_tokens=num_tokens,
            flops=description.flops_per_token * num_tokens,
            seed=config.train.seed,
            is_finished=is_finished,
            tokens_per_step=description.tokens_per_step,
            seq_len=config.model.seq_len,
            parametrization=config.mup.parametrization,
            schedule=config.schedule,
            tokenizer_sha256=description.tokenizer_sha256,
            data_fingerprint=description.data_fingerprint,
            held_out_fingerprint=description.held_out_fingerprint,
            mixture_fingerprint=description.mixture_fingerprint,
            data_changes=tuple(record["change"] for record in records if record["kind"] == "data_changed"),
            code=_code(folder),
            parent=description.parent,
            metrics_sha256=hashlib.sha256((folder / METRICS_FILE).read_bytes()).hexdigest(),
            config=config,
        )

    @classmethod
    def of_row(cls, row: Mapping[str, str | None], name: str, metric: str = VAL_LOSS) -> Self:
        """The run in a row of a table: values by the names of COLUMNS, and `seed` and `group`; others are ignored.

        `name`: the place of the row, such as "runs.csv:7". Another `metric` than the loss has a column of its name. An
        empty value is not known. Raises ValueError, which names the place and the column, if the loss is missing, or a
        value is not a positive number.
        """
        if metric != VAL_LOSS:
            row = {**row, "loss": row.get(metric), "loss_error": row.get(error_of(metric))}
        cells = {column: (row.get(column) or "").strip() for column in (*COLUMNS, "seed", "group")}
        values: dict[str, Any] = {
            COLUMNS[column]: _positive(cells[column], column, name) for column in COLUMNS if cells[column]
        }
        if "loss" not in values:
            column, unit = ("loss", ", in nats per token") if metric == VAL_LOSS else (metric, "")
            raise ValueError(f"{name} has no {column}: add the column '{column}'{unit}, or leave the row out")
        try:
            seed = int(cells["seed"]) if cells["seed"] else None
        except ValueError:
            raise ValueError(f"{name}: seed = {cells['seed']} is not a whole number: correct it") from None
        return cls(name=name, metric=metric, seed=seed, group=cells["group"], **values)


def read_runs(
    paths: Iterable[Path | str], *, must_be_finished: bool = True, metric: str = VAL_LOSS
) -> tuple[list[RunFacts], list[str]]:
    """The runs in these folders, each of a run or of a sweep, and one line for each run that cannot be used."""
    found, problems = [], []
    for folder in dict.fromkeys(folder for path in paths for folder in run_folders(path)):
        try:
            found.append(RunFacts.of_folder(folder, must_be_finished=must_be_finished, metric=metric))
        except ValueError as error:
            problems.append(" ".join(str(error).split()))
    return found, problems


def run_folders(path: Path | str) -> list[Path]:
    """The run folders that a path stands for: the trials of a sweep or a ladder, by name, or the path itself."""
    path = Path(path)
    if not any((path / file).is_file() for file in (SWEEP_FILE, LADDER_FILE)):
        return [path]
    return sorted(folder for folder in (path / TRIALS).iterdir() if folder.is_dir())


def _description(folder: Path) -> Description:
    try:
        return Description.read(folder)
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {DESCRIPTION_FILE}, which runs of older versions lack: the command that trained it adds "
            "it, also to a finished run, if the data are still there"
        ) from None


def _config(folder: Path) -> Config:
    try:
        return configs.load(folder / CONFIG_FILE)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{folder} has no readable {CONFIG_FILE} ({error}): repair it, or leave the run out"
        ) from error


def _why_unfinished(records: Sequence[Mapping[str, Any]], config: Config, num_steps: int) -> str:
    curve = [record for record in records if record["kind"] == "train"]
    at = diverged_at([step["loss"] for step in curve], [step["grad_norm"] for step in curve], steps_of(config))
    if at is not None:
        return f"diverged at step {at:,}: train it with other settings"
    return f"has done {len(curve):,} of {num_steps:,} steps: continue it with the same command"


def _last_evaluation(
    folder: Path, records: Sequence[Mapping[str, Any]], step: int | None, metric: str
) -> Mapping[str, Any]:
    """The last evaluation, which must be at `step` (None: at any), and must have the metric."""
    evaluations = [record for record in records if record["kind"] == "eval" and step in (None, record["step"])]
    if not evaluations:
        when = "" if step is None else f" after its last step ({step:,})"
        raise ValueError(
            f"{folder} was not evaluated on held-out samples{when}: train it with train.eval_samples > 0, or leave it "
            "out"
        )
    evaluation = evaluations[-1]
    if not math.isfinite(evaluation["val_loss"]):
        raise ValueError(f"{folder} diverged: its held-out loss is {evaluation['val_loss']}; leave it out")
    if metric not in evaluation:
        task = task_of(metric)
        what = f"train it with train.eval_tasks=[{task}]" if task else "name another metric"
        raise ValueError(f"{folder} has no {metric} in its last evaluation: {what}, or leave it out")
    if not (math.isfinite(evaluation[metric]) and evaluation[metric] > 0):
        raise ValueError(f"{folder} has {metric} = {evaluation[metric]}, which is not a positive number: leave it out")
    return evaluation


def _problems_sha256(records: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The fingerprint of the problems with which the last session evaluated a metric's task; "" for other metrics."""
    task = task_of(metric)
    found = [record["sha256"] for record in records if record["kind"] == TASK and record["task"] == task]
    return str(found[-1]) if found else ""


def _code(folder: Path) -> str:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8")).get("git") or ""
    return ""


def _positive(text: str, column: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: {column} = {text} is not a positive number: correct it, or leave the row out")
    return value
