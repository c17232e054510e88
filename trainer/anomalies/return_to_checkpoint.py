"""How a run goes back to a checkpoint, and leaves out the samples from there up to the step that was not sound."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch.distributed as dist

from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, Rollback, write_rollbacks
from foretrain.trainer.anomalies.watch import DivergedError
from foretrain.trainer.checkpoint.files import SaveError
from foretrain.trainer.run.folder import step_of

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


def prepare_rollbacks(trainer: Trainer) -> None:
    """At the start of a run that may go back to a checkpoint, write one. Every rank must call it.

    Raises SaveError, on every rank, if it cannot be written.
    """
    if trainer.run.own_checkpoint is not None:
        return
    if trainer.groups.rank == 0:  # what another run in this folder has left, whose checkpoints were deleted
        (trainer.run.run_dir / ROLLBACKS_FILE).unlink(missing_ok=True)
    if trainer.run.config.train.rolls_back:
        trainer.call("on_checkpoint", trainer.save(trainer.run.start_step))


def roll_back(trainer: Trainer, step: int, reason: str) -> int:
    """Take the run back to a checkpoint, after step `step` was dropped, and return the step of the checkpoint.

    Every rank must call it. Raises DivergedError, on every rank, after `train.max_rollbacks` to the same checkpoint.
    """
    with suppress(SaveError):  # the next one is tried later; there is one before it
        path = trainer.checkpoints.finish()
        if path is not None:
            trainer.call("on_checkpoint", path)
    checkpoint = trainer.checkpoints.rollback_target()
    to_step, limit = step_of(checkpoint), trainer.run.config.train.max_rollbacks
    if sum(each.to_step == to_step for each in trainer.rollbacks) >= limit:
        raise DivergedError(
            f"step {step}: {reason}: the run went back to the checkpoint of step {to_step} as often as "
            f"train.max_rollbacks = {limit} allows. Lower optimizer.lr in a new run_dir, look at the samples with "
            "`foretrain data peek`, or raise train.max_rollbacks"
        )
    first, (_, last) = trainer.global_samples(to_step + 1)[0], trainer.global_samples(step)
    rollback = Rollback(step, to_step, first, last + 1, reason)
    if trainer.groups.rank == 0:
        # In this order: a run that dies in between takes the same steps again, and decides the same.
        trainer.checkpoints.remove_after(to_step)
        write_rollbacks(trainer.run.run_dir, [*trainer.rollbacks, rollback])
    dist.barrier(group=trainer.groups.cpu)
    trainer.restart_from(checkpoint, [*trainer.rollbacks, rollback])
    trainer.report.rewind(to_step)
    for each in trainer.rollbacks:
        if each is rollback or to_step == 0:  # a record that is cut back to the start keeps no event
            facts = asdict(each) | {"step": to_step, "from_step": each.step}
            trainer.report.event("rollback", to_step, facts, str(each))
    return to_step
