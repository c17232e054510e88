"""How a run goes back to a checkpoint, and leaves out the samples from there up to the step that was not sound."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch.distributed as dist

from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, Rollback, write_rollbacks
from foretrain.trainer.anomalies.watch import DivergedError
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.files import SaveError
from foretrain.trainer.checkpoint.manifest import set_aside
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.metrics import METRICS_FILE, iter_metrics
from foretrain.trainer.run.folder import step_of

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)


def prepare_rollbacks(trainer: Trainer) -> None:
    """At the start of a session: report what is left out, and see that there is a checkpoint to go back to.

    Every rank must call it. Raises SaveError, on every rank, if it cannot be written.
    """
    if trainer.run.own_checkpoint is not None:
        _report_new(trainer)
        return
    if trainer.groups.rank == 0:  # what another run in this folder has left, whose checkpoints were deleted
        (trainer.run.run_dir / ROLLBACKS_FILE).unlink(missing_ok=True)
    if trainer.run.config.train.rolls_back:
        trainer.call("on_checkpoint", trainer.save(trainer.run.start_step))


def roll_back(trainer: Trainer, step: int, reason: str) -> int:
    """Take the run back to a checkpoint, after step `step` was dropped, and return the step of the checkpoint.

    Every rank must call it. Raises DivergedError, on every rank, after `train.max_rollbacks` to the same checkpoint,
    DamagedError if no checkpoint can be read, and CorpusError if too few samples are left.
    """
    _finish_save(trainer, step)
    before, left_out = tuple(trainer.rollbacks), trainer.left_out
    size = trainer.run.config.train.global_batch_size
    while True:
        checkpoint = _target(trainer)
        _check_limit(trainer, step, step_of(checkpoint), reason, before)
        first, last = left_out.number(step_of(checkpoint) * size), left_out.number(step * size - 1)
        rollback = Rollback(step, step_of(checkpoint), first, last + 1, reason)
        try:
            trainer.restart_from(checkpoint, [*before, rollback])
            break
        except DamagedError as error:
            _set_aside(trainer, checkpoint, error)
    # Only what was read is relied on. A run that dies before the last line takes the same steps again, and decides the
    # same.
    if trainer.groups.rank == 0:
        trainer.checkpoints.remove_after(rollback.to_step)
        write_rollbacks(trainer.run.run_dir, trainer.rollbacks)
    dist.barrier(group=trainer.groups.cpu)
    trainer.report.rewind(rollback.to_step)
    _report_new(trainer)
    return rollback.to_step


def _check_limit(trainer: Trainer, step: int, to_step: int, reason: str, before: Sequence[Rollback]) -> None:
    """Raise DivergedError if there were as many rollbacks to a step as are allowed."""
    limit = trainer.run.config.train.max_rollbacks
    if sum(each.to_step == to_step for each in before) >= limit:
        raise DivergedError(
            f"step {step}: {reason}: the run went back to the checkpoint of step {to_step} as often as "
            f"train.max_rollbacks = {limit} allows. Lower optimizer.lr in a new run_dir, look at the samples with "
            "`foretrain data peek`, or raise train.max_rollbacks"
        )


def _set_aside(trainer: Trainer, checkpoint: Place, error: DamagedError) -> None:
    """Give a damaged checkpoint another name, so that the run goes back to one before it."""
    if trainer.groups.rank == 0:
        logger.warning("%s", set_aside(checkpoint, error))
    dist.barrier(group=trainer.groups.cpu)


def _target(trainer: Trainer) -> Place:
    """The checkpoint to go back to, as rank 0 finds it: on another node the file system may not show the newest yet."""
    found: list[Place | None] = [trainer.checkpoints.rollback_target() if trainer.groups.rank == 0 else None]
    dist.broadcast_object_list(found, group=trainer.groups.cpu, group_src=0)
    (target,) = found
    if target is None:
        raise DamagedError(
            f"no sound checkpoint is left in {trainer.checkpoints.folder} to go back to: repair one that was set aside"
        )
    return target


def _report_new(trainer: Trainer) -> None:
    """Report the rollbacks whose records are not in the metrics, also if a kill or a return has removed them."""
    if trainer.groups.rank > 0:
        return
    records = iter_metrics(trainer.run.run_dir / METRICS_FILE)
    known = {(each["first_sample"], each["end_sample"]) for each in records if each["kind"] == "rollback"}
    for each in trainer.rollbacks:
        if (each.first_sample, each.end_sample) not in known:
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
