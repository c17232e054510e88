"""`foretrain replay`: takes steps of a run again from one of its checkpoints, and compares them with its record.

Nothing in the folder of the run is changed: the ranks write into a temporary folder.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.launcher.local.run import run_local
from foretrain.trainer.checkpoint.places import Place, on_disk
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_RESUME
from foretrain.trainer.run.folder import CONFIG_FILE, LOGS, checkpoints_in, step_of
from foretrain.trainer.run.setup import Run, check_resume, prepare_run
from foretrain.trainer.sinks.comparison import ComparisonSink, difference, relative_difference, steps_of

ROUNDING = {"fp32": 1e-5, "bf16": 1e-3}
"""Relative difference that another layout may make, by precision."""
MOST_STEPS = 10
"""Steps that are taken again if their number is not given."""


@dataclass(frozen=True)
class Replay:
    """Steps of a run that are taken again."""

    config: Config
    checkpoint: Place
    recorded: Mapping[int, Mapping[str, Any]]
    """The metrics of each of the steps, by its number."""
    num_ranks: int | None
    """The ranks that took the steps; None: as many as the layout names."""
    tolerance: float
    """Relative difference of losses and gradient norms that is allowed; 0: the bits must be equal."""
    other_settings: tuple[str, ...] = ()
    """Settings that the user has given other values than those of the run."""

    @property
    def steps(self) -> str:
        """The numbers of the steps, in words."""
        first, last = min(self.recorded), max(self.recorded)
        return f"step {first}" if first == last else f"steps {first} to {last}"


@dataclass(frozen=True)
class Verdict:
    """How a replay ended."""

    status: int
    """Exit status of the ranks; 0: they took all steps that they were asked for."""
    compared: int
    """The number of steps that were taken."""
    differing: tuple[int, ...]
    """The steps that are not those of the record."""
    greatest: float
    """The greatest relative difference of a loss or a gradient norm."""

    def is_complete(self, replay: Replay) -> bool:
        """Whether all steps were compared."""
        return self.compared == len(replay.recorded)

    def text(self, replay: Replay) -> str:
        """The result, and what to do about it."""
        if self.differing:
            return self._accusation(replay)
        if not self.is_complete(replay):
            return f"the replay ended after {self.compared} of {len(replay.recorded)} steps, and they do not differ"
        how = "equal to the last bit" if not replay.tolerance else f"equal within {replay.tolerance:g} (relative)"
        text = f"{replay.steps}: the loss and the gradient norm of all {self.compared} steps are {how}"
        return f"{text}; then a rank failed (status {self.status})" if self.status else text

    def _accusation(self, replay: Replay) -> str:
        size = f"by at most {self.greatest:.1e} (relative)"
        found = (
            f"{len(self.differing)} of {self.compared} steps differ, {size}; the first is step {min(self.differing)}. "
        )
        rounding, changed = ROUNDING[replay.config.train.precision], ", ".join(replay.other_settings)
        if changed and not replay.tolerance and self.greatest < rounding:
            return f"{found}Other settings ({changed}) may round differently: allow that with --tolerance {rounding:g}."
        unless = f"unless the settings ({changed}) have made the difference, or " if changed else "unless "
        return (
            f"{found}This machine or that of the run computed wrongly, {unless}the run had another layout in these "
            "steps, or they have other hardware or libraries, or kernels that are not deterministic. Replay the same "
            "steps on a third machine to see which machine is wrong. If it is that of the run, continue from "
            f"{replay.checkpoint}, and remove later checkpoints."
        )


def plan(
    run_dir: Path, overrides: Sequence[str], after: int | None, num_steps: int | None, tolerance: float = 0.0
) -> Replay:
    """Choose the checkpoint and the steps. Raises ValueError, which says what to change, if there are none.

    `after`: the step of the checkpoint; None: the newest after which a step is recorded. `num_steps`: None: up to
    MOST_STEPS, but no further than the next checkpoint, since the run may have had another layout after it.
    """
    if not (run_dir / METRICS_FILE).is_file():
        raise ValueError(f"{run_dir} has no {METRICS_FILE}: name the folder of a run")
    steps = steps_of(read_metrics(run_dir / METRICS_FILE))
    checkpoints = {step_of(path): path for path in checkpoints_in(run_dir).complete()}
    start = _start(run_dir, checkpoints, steps, after)
    following = min((step for step in checkpoints if step > start), default=max(steps))
    end = min(following, start + MOST_STEPS) if num_steps is None else start + num_steps
    missing = [step for step in range(start + 1, end + 1) if step not in steps]
    if missing:
        raise ValueError(
            f"{run_dir / METRICS_FILE} has {missing[0] - start - 1} steps after step {start}, and then lacks step "
            f"{missing[0]}: use --steps {missing[0] - start - 1}"
        )
    recorded = {step: steps[step] for step in range(start + 1, end + 1)}
    # The config of the next checkpoint is that with which the steps before it were taken.
    source = checkpoints.get(following, run_dir)
    with on_disk(source / CONFIG_FILE) as file:
        config = configs.load(file, overrides)
    num_ranks = None if config.parallel.dp else _num_writers(checkpoints.get(following, checkpoints[start]))
    config = replace(config, run_dir=str(run_dir))
    return Replay(config, checkpoints[start], recorded, num_ranks, tolerance, tuple(overrides))


def _start(run_dir: Path, checkpoints: Mapping[int, Place], steps: Mapping[int, Any], after: int | None) -> int:
    useful = sorted(step for step in checkpoints if step + 1 in steps)
    if not useful:
        raise ValueError(
            f"{run_dir} has no checkpoint with a recorded step after it, so that no step can be taken again: let a run "
            "keep earlier checkpoints with train.keep_checkpoints or train.keep_every"
        )
    if after is None:
        return useful[-1]
    if after not in useful:
        listed = ", ".join(map(str, useful))
        raise ValueError(f"--after {after}: there is no checkpoint of that step with a step after it: use {listed}")
    return after


def _num_writers(checkpoint: Place) -> int:
    """The number of ranks that wrote a checkpoint, by the names of its files: __RANK_NUMBER.distcp."""
    return 1 + max(int(path.name.split("_")[2]) for path in checkpoint.iterdir() if path.name.endswith(".distcp"))


def replay(replay: Replay) -> Verdict:
    """Take the steps again on the ranks of this machine, and print how each compares with the record.

    If a rank fails, its logs stay in the temporary folder. Raises ValueError, which says what to change, if the run
    cannot be continued from its checkpoint.
    """
    folder = Path(tempfile.mkdtemp(prefix="foretrain-replay-"))
    status = EXIT_DONE
    try:
        run = _prepared(replay, folder)
        print(
            f"takes {replay.steps} of {replay.config.run_dir} again from {replay.checkpoint}: {run.layout}", flush=True
        )
        status = run_local(
            "foretrain.trainer.run.rank:replay_rank",
            (run, ComparisonSink(replay.recorded, replay.tolerance)),
            run.layout.world_size,
            log_dir=run.run_dir / LOGS,
        )
        return _judged(replay, status, run.run_dir / METRICS_FILE)
    finally:
        if status in (EXIT_DONE, EXIT_RESUME):
            rmtree(folder)
        else:
            print(f"the logs of the ranks are in {folder / LOGS}", flush=True)


def _judged(replay: Replay, status: int, metrics: Path) -> Verdict:
    taken = steps_of(read_metrics(metrics)) if metrics.exists() else {}
    pairs = {step: (replay.recorded[step], now) for step, now in taken.items() if step in replay.recorded}
    differing = [step for step, (recorded, now) in pairs.items() if difference(recorded, now, replay.tolerance)]
    greatest = max((relative_difference(recorded, now) for recorded, now in pairs.values()), default=0.0)
    return Verdict(status, len(pairs), tuple(differing), greatest)


def _prepared(replay: Replay, folder: Path) -> Run:
    """The run that takes the steps, in a folder of its own."""
    config = replay.config
    train = replace(
        config.train,
        stop_after=max(replay.recorded),
        sinks=[],
        init_from=None,
        prediction=None,
        branch_from=None,
        checkpoint_folder=None,
        checkpoint_every=0,
        checkpoint_minutes=0.0,
        eval_samples=0,
        eval_standard_error=None,
        eval_tasks=[],
        # There is nothing to go back to here. What the run went back from is not among the steps that it has recorded.
        # A step at which it ended has no consequences here.
        on_non_finite="skip",
        max_skips=2**62,
        on_spike="warn" if config.train.on_spike == "rollback" else config.train.on_spike,
    )
    run = prepare_run(replace(config, run_dir=str(folder), train=train), replay.num_ranks)
    as_it_was = replace(run.config, run_dir=config.run_dir, train=config.train)
    resume = check_resume(replay.checkpoint, as_it_was, run.data)
    return replace(run, resume=replace(resume, rollbacks=(), is_branch=True, is_replay=True))
