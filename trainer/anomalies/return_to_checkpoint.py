"""How a run goes back to a checkpoint, and leaves out the samples from there up to the step that was not sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch.distributed as dist

from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, Rollback, write_rollbacks
from foretrain.trainer.anomalies.watch import DivergedError
from foretrain.trainer.checkpoint.files import SaveError
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.run.folder import step_of

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


def prepare_rollbacks(trainer: Trainer) -> None:
    """At the start of a session: report what is left out, and see that there is a checkpoint to go back to.

    Every rank must call it. Raises SaveError, on every rank, if it cannot be written.
    """
    if trainer.run.own_checkpoint is not None:
        if trainer.run.start_step == 0:
            _report(trainer, trainer.rollbacks)
        return
    if trainer.groups.rank == 0:  # what another run in this folder has left, whose checkpoints were deleted
        (trainer.run.run_dir / ROLLBACKS_FILE).unlink(missing_ok=True)
    if trainer.run.config.train.rolls_back:
        trainer.call("on_checkpoint", trainer.save(trainer.run.start_step))


def roll_back(trainer: Trainer, step: int, reason: str) -> int:
    """Take the run back to a checkpoint, after step `step` was dropped, and return the step of the checkpoint.

    Every rank must call it. Raises DivergedError, on every rank, after `train.max_rollbacks` to the same checkpoint.
    """
    _finish_save(trainer, step)
    checkpoint = _target(trainer)
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
    # Metrics that are cut back to the start keep nothing, not even earlier rollbacks.
    _report(trainer, trainer.rollbacks if to_step == 0 else [rollback])
    return to_step


def _target(trainer: Trainer) -> Place:
    """The checkpoint to go back to, as rank 0 finds it: on another node the file system may not show the newest yet."""
    found: list[Place | None] = [trainer.checkpoints.rollback_target() if trainer.groups.rank == 0 else None]
    dist.broadcast_object_list(found, group=trainer.groups.cpu, group_src=0)
    (target,) = found
    assert target is not None
    return target


def _report(trainer: Trainer, rollbacks: Sequence[Rollback]) -> None:
    for each in rollbacks:
        facts = asdict(each) | {"step": each.to_step, "from_step": each.step}
        trainer.report.event("rollback", each.to_step, facts, str(each))


def _finish_save(trainer: Trainer, step: int) -> None:
    """Complete the checkpoint that is being written, so that it counts. If it fails, there is one before it."""
    try:
        path = trainer.checkpoints.finish()
    except SaveError as error:
        trainer.report.event("checkpoint_failed", step, {"error": str(error)}, f"step {step}: {error}")
    else:
        if path is not None:
            trainer.call("on_checkpoint", path)
