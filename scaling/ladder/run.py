"""A ladder from start to end: its files, and the runs that are not done yet.

OUT/ladder.json     the plan
OUT/target.yaml     the config of the run that the ladder leads to, with the values of the sweep
OUT/trials/NAME/    the run folder of a rung and a seed; `foretrain train` and `launch` take its trial.yaml too

What else is in the folder is described in `scaling/trials/record.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.keys import changes_curve
from foretrain.files import write_atomically
from foretrain.scaling.ladder.plan import LadderPlan
from foretrain.scaling.ladder.rungs import Rung
from foretrain.scaling.records import LADDER_FILE, SWEEP_FILE, LadderRecord, from_json, to_json
from foretrain.scaling.trials.folder import TrialFolder
from foretrain.scaling.trials.progress import TrialProgress
from foretrain.scaling.trials.runner import Runner
from foretrain.scaling.trials.trial import Trial
from foretrain.trainer.run.environment import code_version
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED
from foretrain.trainer.run.lock import locked

TARGET_CONFIG = "target.yaml"

OPTIONS = {
    "budget_flops": "--budget",
    "seeds": "--seeds",
    "tokens_per_param": "--tokens-per-param",
    "batch": "--batch",
    "ratio": "--ratio",
    "min_width": "--min-width",
}
"""The options that decide the rungs, by their names in the record. The number of rungs has none."""


class Ladder(TrialFolder):
    """The runs of a ladder and their outcomes, in a folder."""

    def __init__(self, plan: LadderPlan, out: Path) -> None:
        super().__init__(out)
        self.plan = plan

    def batches(self) -> Iterator[Sequence[Trial]]:
        """Yield all runs, those of the smallest rung first: what is wrong shows early."""
        yield self.plan.all_trials

    def run(self, runner: Runner, progress: TrialProgress) -> int:
        """Train what is not done yet. Returns the exit status of the command: 1 also if a run has diverged."""
        status = super().run(runner, progress)
        diverged = any(outcome.status == "diverged" for outcome in self.outcomes.values())
        return EXIT_FAILED if status == EXIT_DONE and diverged else status


@contextmanager
def open_ladder(plan: LadderPlan, out: Path) -> Iterator[Ladder]:
    """Yield the ladder of a plan, with its folder made, its configs written, and the folder locked.

    Raises ValueError if the folder is in use, or holds another ladder.
    """
    with locked(out):
        check_folder(plan, out)
        ladder = Ladder(plan, out)
        for trial in plan.all_trials:
            ladder.write_config(trial)
        configs.save(plan.target, out / TARGET_CONFIG)
        if not (out / LADDER_FILE).exists():  # it is written last: a folder without it holds no ladder
            write_atomically(out / LADDER_FILE, to_json(record_of(plan), indent=1))
        yield ladder


def check_folder(plan: LadderPlan, out: Path) -> None:
    """Raise ValueError, which says what differs, if a folder holds another ladder, or a sweep."""
    if (out / SWEEP_FILE).exists():
        raise ValueError(f"{out} holds a sweep: choose another --out")
    path = out / LADDER_FILE
    if not path.exists():
        return
    try:
        found = from_json(LadderRecord, path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not the plan of a ladder ({error}): choose another --out") from error
    if changes := _changes(found, plan, out):
        raise ValueError(
            f"{out} holds another ladder ({'; '.join(changes)}): set that back to resume it, or choose another --out"
        )


def _changes(there: LadderRecord, plan: LadderPlan, out: Path) -> list[str]:
    """What differs between the ladder in a folder and a plan, in words."""
    here = record_of(plan)
    lines = [
        f"{option} {_shown(getattr(there, name))} there, {_shown(getattr(here, name))} here"
        for name, option in OPTIONS.items()
        if getattr(there, name) != getattr(here, name)
    ]
    if len(there.rungs) != len(here.rungs):
        lines.append(f"--points {len(there.rungs)} there, {len(here.rungs)} here")
    if not lines and (out / TARGET_CONFIG).exists():
        changes = configs.diff(configs.load((out / TARGET_CONFIG).resolve()), plan.target)
        lines = [line for line in changes if changes_curve(line.partition(":")[0])]
    if not lines and _keys(there) != _keys(here):
        lines = ["its data, or the rules of its rungs"]
    return lines


def _keys(record: LadderRecord) -> list[Any]:
    return [rung.get("runs") for rung in record.rungs]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def record_of(plan: LadderPlan) -> LadderRecord:
    """The content of ladder.json."""
    rungs = [
        {
            **_numbers(rung),
            "num_epochs": epochs,
            "runs": [{"seed": trial.seed, "folder": trial.name, "trial": trial.key} for trial in trials],
        }
        for rung, epochs, trials in zip(plan.rungs, plan.num_epochs, plan.trials, strict=True)
    ]
    return LadderRecord(
        budget_flops=plan.ask.budget_flops,
        seeds=list(plan.seeds),
        tokens_per_param=plan.rules.tokens_per_param,
        batch=plan.rules.batch,
        ratio=plan.ratio,
        min_width=plan.rules.min_width,
        parametrization=plan.target.mup.parametrization,
        flops=plan.flops,
        target=_numbers(plan.goal),
        rungs=rungs,
        layout=plan.ask.layout,
        sweep="" if plan.transfer is None else plan.transfer.study.sweep.name,
        code=code_version(),
    )


def _numbers(rung: Rung) -> dict[str, Any]:
    """The numbers of a rung, or of the target, in ladder.json."""
    return {
        "d_model": rung.model.d_model,
        "num_layers": rung.model.num_layers,
        "num_heads": rung.model.num_heads,
        "d_ff": rung.model.block_shape.d_ff,
        "num_params": rung.size.num_params,
        "num_params_without_embeddings": rung.size.num_params_without_embeddings,
        "flops_per_token": rung.size.flops_per_token,
        "num_tokens": rung.num_tokens,
        "num_steps": rung.num_steps,
        "global_batch_size": rung.global_batch_size,
        "lr": rung.lr,
        "flops": rung.flops,
    }
