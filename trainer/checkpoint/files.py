"""Checkpoints that any layout can load: complete parameters by name, in fp32, with the states of the optimizer.

A checkpoint is a folder `step-00000100`, written by torch.distributed.checkpoint, with `run.json` and `config.yaml`
beside the shards. Every rank writes its own part, from a copy in host memory, while training continues. A checkpoint is
complete or absent: `folders.py` says how.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.faults import is_passing
from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.manifest import write_manifest
from foretrain.trainer.checkpoint.pace import Pace, share_beside
from foretrain.trainer.checkpoint.parts import parts_to_write
from foretrain.trainer.checkpoint.places import Place, write_file
from foretrain.trainer.checkpoint.plans import PARTS, WritePlan
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.checkpoint.space import what_to_change
from foretrain.trainer.checkpoint.staging import Staging
from foretrain.trainer.checkpoint.storage import NotFiniteError, RankWriter, expect_no_messages, merge_metadata
from foretrain.trainer.run.folder import CONFIG_FILE, step_of
from foretrain.trainer.state import ModelState

logger = logging.getLogger(__name__)

DIVERGED = (
    "Training has diverged, and the checkpoints before are kept: lower optimizer.lr or optimizer.clip_norm, or "
    "lengthen schedule.warmup_tokens, in a new run_dir"
)


class SaveError(ValueError):
    """A checkpoint cannot be written, or must not be; the message says why, and what to change.

    `is_passing`: another attempt may succeed, although nobody changes anything.
    """

    def __init__(self, message: str, *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


@dataclass(frozen=True)
class _Reason:
    """Why a rank could not do its part, and what to change."""

    text: str
    is_passing: bool


@dataclass
class _Save:
    """A checkpoint that is being written."""

    target: Place
    groups: Groups
    config: Config
    pace: Pace
    """How fast this rank writes."""
    work: "Future[Any]"
    """What this rank does now: it writes its part, or, after all ranks have, rank 0 makes it complete."""
    publish: Callable[[], None] | None
    """The second; None once it has started."""


class Checkpoints:
    """The checkpoints of one run, in `folder`, and how they are written.

    `make_pace` makes what says how fast this rank writes one of them beside training, from a share of a core.
    """

    def __init__(self, folder: Place, retention: Retention, make_pace: Callable[[float], Pace] = Pace) -> None:
        self.folder = folder
        self._make_pace = make_pace
        self._folder = folder_of(folder)
        self._retention = retention
        self._staging: Staging | None = None
        self._save: _Save | None = None
        self._publisher = ThreadPoolExecutor(1, "publish-checkpoint")

    def complete(self) -> list[Any]:
        """Complete checkpoints, oldest first."""
        return self._folder.complete()

    def has(self, step: int) -> bool:
        """Whether there is a complete checkpoint of that step."""
        return self._folder.is_complete(self._folder.path(step))

    @property
    def staging_bytes(self) -> int:
        """Host memory for the copy that this rank writes from; 0 before the first save."""
        return 0 if self._staging is None else self._staging.num_bytes

    # ---- save; every rank calls these together ----

    def save(
        self,
        step: int,
        state: ModelState,
        record: CheckpointRecord,
        config: Config,
        attached: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Any:
        """Write the state after `step` steps with `record`, `config` and the files `attached`, by name.

        Returns the folder, a Place. Raises SaveError, on every rank, if any rank cannot write, or has a weight that is
        not finite; those before are still there then.
        """
        self.start(step, state, record, config, attached)
        path = self.finish()
        assert path is not None
        return path

    def start(
        self,
        step: int,
        state: ModelState,
        record: CheckpointRecord,
        config: Config,
        attached: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Copy the state, and begin to write it; see `save`. The save before must be finished."""
        assert self._save is None, "a save is running"
        groups, target = state.groups, self._folder.path(step)
        folder = self._folder.unfinished(target)
        parts = parts_to_write(state)
        with self._on_rank_0(target, groups, config):
            if groups.rank == 0:
                if self.has(step):
                    raise FileExistsError(f"{target} is there already")
                if isinstance(target, Path) and target.exists():
                    raise FileExistsError(f"a folder of that name is there, and is no checkpoint: move {target} away")
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_partial()
                self._folder.clear(target)
        self._staging = self._staging or Staging(groups.device)
        expect_no_messages()
        pace = self._make_pace(share_beside(groups.device.type))
        publish = partial(self.write_rest, folder, target, groups.layout.world_size, record, config, attached)
        try:
            saving: Any = dcp.async_save(
                {PARTS: parts},
                storage_writer=RankWriter(folder, groups.rank, pace),
                planner=WritePlan(parts),
                process_group=groups.cpu,
                async_stager=self._staging,
                no_dist=True,
                use_collectives=False,
            )
            self._save = _Save(target, groups, config, pace, saving.upload_completion, publish)
        finally:
            self._staging.hand_over()

    @property
    def is_busy(self) -> bool:
        """Whether this rank has work to do before `advance` may be called."""
        return self._save is not None and not self._save.work.done()

    @property
    def is_saving(self) -> bool:
        """Whether a save was started and is not complete; the same on every rank."""
        return self._save is not None

    def advance(self) -> Any:
        """After no rank is busy: begin the next part of a save. Returns the folder if the save is complete.

        Raises SaveError, on every rank, if any rank could not do its part.
        """
        save = self._save
        if save is None:
            return None
        self._agree(save.target, save.groups, self._reason(save.work.exception(), save.config))
        if save.publish is None:
            self._save = None
            return save.target
        if save.groups.rank == 0:
            save.work = self._publisher.submit(save.publish)
        save.publish = None
        return None

    def finish(self) -> Any:
        """Wait for the save that was started, and return its folder, or None. Raises as `advance` does."""
        path = None
        while self._save is not None:
            self._save.pace.hurry()
            self._save.work.exception()  # waits
            path = self.advance()
        return path

    def write_rest(
        self,
        folder: Any,
        target: Any,
        num_ranks: int,
        record: CheckpointRecord,
        config: Config,
        attached: Mapping[str, bytes],
    ) -> None:
        """On rank 0: add what belongs to no rank, and make the checkpoint complete."""
        merge_metadata(folder, num_ranks)
        record.write(folder)
        write_file(folder / CONFIG_FILE, configs.to_yaml(config))
        for name, content in attached.items():
            (folder / name).write_bytes(content)
        write_manifest(folder)
        self._folder.publish(folder, target)
        try:
            self._remove_superseded()
        except OSError as error:  # the new one is complete
            logger.warning("an old checkpoint cannot be removed: %s", error)

    @contextmanager
    def _on_rank_0(self, target: Place, groups: Groups, config: Config) -> Iterator[None]:
        """A block in which rank 0 alone writes. If it cannot, all ranks raise SaveError after the block."""
        failure = None
        try:
            yield
        except OSError as error:
            failure = error
        self._agree(target, groups, self._reason(failure, config))

    def _agree(self, target: Place, groups: Groups, reason: _Reason | None) -> None:
        """Raise SaveError on every rank if any rank has a reason why it could not write."""
        has_failed = torch.tensor(float(reason is not None))
        dist.all_reduce(has_failed, dist.ReduceOp.MAX, group=groups.cpu)
        if not has_failed:
            return
        all_reasons: list[_Reason | None] = [None] * groups.layout.world_size
        dist.all_gather_object(all_reasons, reason, group=groups.cpu)
        reasons = [each for each in all_reasons if each is not None]
        self._save = None
        if groups.rank == 0 and isinstance(self.folder, Path):
            with suppress(OSError):  # the other ranks continue, and the next save tries it again
                self._remove_partial()  # a disk that it has filled has room again for the files of the run
        raise SaveError(
            f"{target} cannot be written: {reasons[0].text}", is_passing=all(each.is_passing for each in reasons)
        )

    def _remove_partial(self) -> None:
        for leftover in self._folder.partial():
            self._folder.remove(leftover)

    def rollback_target(self) -> Place | None:
        """The checkpoint to which the run goes back; None if there is none."""
        steps = [step_of(path) for path in self.complete()]
        return self._folder.path(self._retention.rollback_target(steps)) if steps else None

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which the run is going to take again on other samples."""
        for path in self.complete():
            if step_of(path) > step:
                self._folder.remove(path)

    def _remove_superseded(self) -> None:
        complete = {step_of(path): path for path in self.complete()}
        losses = {}
        if self._retention.best:
            known = {step: CheckpointRecord.read(path).val_loss for step, path in complete.items()}
            losses = {step: loss for step, loss in known.items() if loss is not None}
        for step in self._retention.superseded(complete.keys(), losses):
            self._folder.remove(complete[step])

    def _reason(self, error: BaseException | None, config: Config) -> _Reason | None:
        """Why this rank could not do its part; None without an error."""
        if error is None:
            return None
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, NotFiniteError):  # a run that resumed from them could never recover
                return _Reason(f"the weights of {cause} are not finite. {DIVERGED}", is_passing=False)
            if isinstance(cause, OSError):
                if is_passing(cause):
                    return _Reason(str(cause), is_passing=True)
                return _Reason(f"{cause}. {what_to_change(self.folder, config)}", is_passing=False)
            cause = cause.__cause__ or cause.__context__
        what = f"{type(error).__name__}: {error}. {what_to_change(self.folder, config)}"
        return _Reason(what, is_passing=False)
