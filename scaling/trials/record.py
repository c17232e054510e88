"""The files of the trials of a study. The same trials always leave the same bytes.

OUT/results.jsonl   a line for each trial that has ended, in the order of the plan
OUT/trials/NAME/    a run folder; trial.yaml is its config, result.json its outcome
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.scaling.records import RESULTS_FILE, TrialRecord, to_json
from foretrain.scaling.trials.curve import Steps, diverged_at
from foretrain.scaling.trials.trial import Trial
from foretrain.trainer.metrics import METRICS_FILE, final_loss, read_metrics
from foretrain.trainer.run.folder import newest_checkpoint, step_of

TRIAL_CONFIG = "trial.yaml"
OUTCOME_FILE = "result.json"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial."""

    status: Literal["finished", "diverged"]
    loss: float | None = None
    """Mean over the last steps, nats per token; None if it diverged."""
    val_loss: float | None = None
    """Loss on held-out samples at the end; None if it diverged, or if train.eval_samples is 0."""
    diverged_at: int | None = None
    """Step at which it had diverged."""


def trial_config(folder: Path) -> Config:
    """The config of the trial in a folder, which may have moved."""
    return replace(configs.load(folder / TRIAL_CONFIG), run_dir=str(folder))


def steps_of(config: Config) -> Steps:
    """The number of steps of a run, and of its warm-up."""
    tokens_per_step = config.train.global_batch_size * config.model.seq_len
    return Steps(-(-config.train.num_tokens // tokens_per_step), -(-config.schedule.warmup_tokens // tokens_per_step))


def recorded(folder: Path) -> Outcome | None:
    """The outcome in result.json; None if it does not exist or cannot be read: the metrics still contain it."""
    try:
        return Outcome(**json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def conclude(folder: Path, config: Config) -> Outcome | None:
    """Write the outcome of a trial to result.json, and return it; None if the trial has not ended."""
    outcome = outcome_of(folder, config)
    if outcome is not None:
        write_atomically(folder / OUTCOME_FILE, json.dumps(asdict(outcome)) + "\n")
    return outcome


def outcome_of(folder: Path, config: Config) -> Outcome | None:
    """The outcome of a trial according to its metrics and checkpoints; None if it has not ended."""
    if not (folder / METRICS_FILE).exists():
        return None
    records = read_metrics(folder / METRICS_FILE)
    curve = [record for record in records if record["kind"] == "train"]
    steps = steps_of(config)
    at = diverged_at([step["loss"] for step in curve], [step["grad_norm"] for step in curve], steps)
    if at is not None:
        return Outcome("diverged", diverged_at=at)
    checkpoint = newest_checkpoint(folder)
    if len(curve) < steps.total or checkpoint is None or step_of(checkpoint) < steps.total:
        return None
    held_out = [record["val_loss"] for record in records if record["kind"] == "eval" and record["step"] == steps.total]
    return Outcome(
        "finished",
        loss=final_loss(records),
        val_loss=held_out[-1] if held_out and math.isfinite(held_out[-1]) else None,
    )


def trial_record(trial: Trial, outcome: Outcome) -> TrialRecord:
    """The line of a trial in results.jsonl."""
    config = trial.config
    return TrialRecord(
        trial=trial.key,
        d_model=config.model.d_model,
        num_layers=config.model.num_layers,
        seed=trial.seed,
        values=trial.values,
        parametrization=config.mup.parametrization,
        num_params=trial.num_params,
        num_tokens=trial.num_tokens,
        budget_tokens=config.train.num_tokens if trial.is_rung else None,
        global_batch_size=config.train.global_batch_size,
        seq_len=config.model.seq_len,
        **asdict(outcome),
    )


def write_results(out: Path, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> None:
    """Write the line of every trial that has an outcome; `outcomes` are by the trial's key."""
    lines = [to_json(trial_record(trial, outcomes[trial.key])) for trial in trials if trial.key in outcomes]
    write_atomically(out / RESULTS_FILE, "".join(lines))
