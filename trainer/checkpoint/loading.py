"""Reading a checkpoint of any layout: each rank reads what it keeps, and no more."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.checksums import DamagedError, read_checked
from foretrain.trainer.checkpoint.manifest import METADATA, has_manifest, set_aside
from foretrain.trainer.checkpoint.metadata import read_metadata
from foretrain.trainer.checkpoint.parts import part_of, parts_to_read
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.plans import ReadPlan
from foretrain.trainer.checkpoint.reading.node import Node
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.storage import CheckpointReader, expect_no_messages
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.run.setup import Run, check_resume
from foretrain.trainer.state import ModelState

logger = logging.getLogger(__name__)


def load_newest(run: Run, state: ModelState) -> Run:
    """Load the checkpoint that a run resumes from, or, if it is damaged, the newest that is sound.

    Returns the run, which resumes from what was loaded. Damaged ones are set aside. Every rank must call it. Raises
    DamagedError, on every rank, if none is left.
    """
    while True:
        assert run.resume is not None
        checkpoint = run.resume.checkpoint
        try:
            load(checkpoint, state, CheckpointRecord.read(checkpoint).num_updates)
        except DamagedError as error:
            if run.resume.is_branch:
                named_by = "--after" if run.resume.is_replay else "train.branch_from"
                raise DamagedError(f"{error}. Name another checkpoint in {named_by}") from error
            if state.groups.rank == 0:
                logger.warning("%s", set_aside(checkpoint, error))
            dist.barrier(group=state.groups.cpu)
            newest = run.checkpoints.newest()
            if newest is None:
                raise DamagedError(
                    f"{error}. No sound checkpoint is left in {run.checkpoints.place}: repair the one that was set "
                    "aside, or delete the folder to train from the start"
                ) from error
            resume = check_resume(newest, run.config, run.data, allow_data_change=bool(run.resume.data_changes))
            run = replace(run, resume=resume)
        else:
            return run


def load_initial(checkpoint: Place, state: ModelState, *, with_optimizer: bool) -> None:
    """Load the weights that a new run starts with, and, `with_optimizer`, the states of its optimizer.

    Every rank must call it. Raises DamagedError, on every rank, if what any rank reads is not what was written.
    """
    try:
        if with_optimizer:
            load(checkpoint, state, CheckpointRecord.read(checkpoint).num_updates)
        else:
            load(checkpoint, state, 0, ("weight",))
    except DamagedError as error:
        raise DamagedError(f"{error}. Name another checkpoint in train.init_from") from error


def load(path: Place, state: ModelState, step: int, keys: Sequence[str] = ()) -> None:
    """Load this rank's part of a checkpoint after `step` updates, written in any layout. Every rank must call it.

    `keys` are the states that are read; (): all.

    Raises DamagedError, on every rank, if what any rank reads is not what was written.
    """
    state.set_step(step)
    damage = ""
    node = Node.that_shares(path, state.groups)
    try:
        read_from(path, {}, ReadPlan([part for part in parts_to_read(state) if not keys or part.key in keys]), node)
    except DamagedError as error:
        damage = str(error)
    _agree(damage, state.groups)
    state.zero.take_pieces()


def _agree(damage: str, groups: Groups) -> None:
    """Raise DamagedError on every rank if any rank has found damage."""
    has_found = torch.tensor(float(bool(damage)))
    dist.all_reduce(has_found, dist.ReduceOp.MAX, group=groups.cpu)
    if has_found:
        found: list[str] = [""] * groups.layout.world_size
        dist.all_gather_object(found, damage, group=groups.cpu)
        raise DamagedError(next(filter(None, found)))


def read_from(
    path: Place, tensors: dict[str, Any], plan: dcp.LoadPlanner | None = None, node: Node | None = None
) -> None:
    """Read `tensors`, or what a plan asks for, with the other ranks of `node`, if one is given.

    Raises DamagedError if a file is missing or not what was written, and OSError if it cannot be read now: a fault of
    the file system or of permissions must not set a sound checkpoint aside. Raises UnsafeError, before anything of a
    pickle is executed, if the checkpoint has what could be.
    """
    node = node or Node()
    expect_no_messages()
    try:
        content, has_checksums = node.once(lambda: metadata_bytes(path))
        metadata = read_metadata(content, path / METADATA)  # not in torch, which would look for others after an error
        reader = CheckpointReader(path, metadata, node, has_checksums=has_checksums)
        dcp.load(tensors, storage_reader=reader, planner=plan, no_dist=True)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: {error}") from error
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, (DamagedError, FileNotFoundError)):
                raise DamagedError(str(failure)) from error
            raise failure from error


def metadata_bytes(path: Place) -> tuple[bytes, bool]:
    """The content of the file with the metadata of a checkpoint, and whether the checkpoint has checksums."""
    has_checksums, file = has_manifest(path), path / METADATA
    return (read_checked(file) if has_checksums else file.read_bytes()), has_checksums


def load_weights(path: Place, shards: Sequence[ParamShard], node: Node | None = None) -> None:
    """Load only the weights of a checkpoint of any layout into modules whose tensors are complete shards in fp32.

    Each rank reads its shards, in place, with the other ranks of `node`, if one is given. Raises DamagedError if a file
    is not what was written.
    """
    read_from(path, {}, ReadPlan([part_of(shard) for shard in shards if 0 not in shard.shape]), node)
