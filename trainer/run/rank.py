"""One rank of a run as a process: from the launcher's environment to an exit status."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist

from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.shim import free_memory
from foretrain.registry import import_plugins
from foretrain.trainer.callbacks.base import Outcome
from foretrain.trainer.callbacks.checkpoints import CheckpointWriter
from foretrain.trainer.run import stopping
from foretrain.trainer.run.finish import finish, surviving_faults
from foretrain.trainer.run.setup import Run
from foretrain.trainer.sinks import Sink
from foretrain.trainer.stages import timing
from foretrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)


def train_rank(run: Run) -> None:
    """Train one rank of `run`, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment.

    Raises SystemExit(EXIT_RESUME) if a signal stopped the run, or if it must be started again, and
    SystemExit(EXIT_HANG) if a server or a file system failed.
    """
    with stopping.restarted_after_faults():
        groups, outcome = _fit(run, Trainer)
    if groups.rank == 0 and outcome.is_complete:
        with stopping.ended_by_signals(), surviving_faults(run):
            finish(run)


def replay_rank(run: Run, comparison: Sink) -> None:
    """Take steps of a run again on one rank, and compare them on rank 0; as `train_rank`, without checkpoints."""

    def trainer_of(run: Run, groups: Groups) -> Trainer:
        trainer = Trainer(run, groups, sinks=[comparison])
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, CheckpointWriter)]
        return trainer

    _fit(run, trainer_of)


def _fit(run: Run, trainer_of: Callable[[Run, Groups], Trainer]) -> tuple[Groups, Outcome]:
    stopping.catch_lost_output()
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    import_plugins(run.config.plugins)
    groups = init_groups(run.layout, run.config.train.device, run.config.parallel.timeout_s)
    _check_same_start(run, groups)
    if run.measures_stages:
        groups.layout = timing.measure_and_balance(run.config.model, run.config.train, groups, run.run_dir)
        run = replace(run, layout=groups.layout)
    trainer = trainer_of(run, groups)
    outcome = trainer.fit()
    if outcome.stopped_by == "signal":
        stopping.exit_for_resume()
    trainer.engine.zero.destroy()
    del trainer
    destroy_groups()
    free_memory()  # before a model is loaded to generate text with
    return groups, outcome


def _check_same_start(run: Run, groups: Groups) -> None:
    """Exit, to be started again, if ranks have found different files: some were written while they looked."""
    rollbacks = run.resume.rollbacks if run.resume else ()
    found = repr((run.own_checkpoint and run.own_checkpoint.name, run.left_out, rollbacks))
    word = int.from_bytes(hashlib.sha256(found.encode()).digest()[:7])
    bounds = torch.tensor([run.start_step, -run.start_step, word, -word], device=groups.device)
    dist.all_reduce(bounds, dist.ReduceOp.MAX)
    last, minus_first, greatest, minus_least = bounds.tolist()
    if (last, greatest) != (-minus_first, -minus_least):
        if groups.rank == 0 and last != -minus_first:
            logger.warning("some ranks would resume at step %d, others at step %d: all look again", -minus_first, last)
        elif groups.rank == 0:
            logger.warning("ranks have found different checkpoints or rollbacks of step %d: all look again", last)
        stopping.exit_for_resume()


train_rank.on_start = stopping.catch_signals  # type: ignore[attr-defined]
replay_rank.on_start = stopping.catch_signals  # type: ignore[attr-defined]
