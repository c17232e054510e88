"""Checkpoints that any layout can load: complete parameters by name, in fp32, with the states of the optimizer.

A checkpoint is a folder `step-00000100`, written by torch.distributed.checkpoint, with `run.json` and `config.yaml`
beside the shards. It is written under another name and renamed when every rank is done, so it is complete or absent.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import sync
from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.space import GIB, checkpoint_bytes, free_bytes
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.state import ModelState

_PARTIAL = "partial-"


class SaveError(ValueError):
    """A checkpoint cannot be written; the message says why, and what to change."""


class Checkpoints:
    """The checkpoints of one run, in `folder`; the newest `keep` are kept (0: all)."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def has(self, step: int) -> bool:
        """Whether there is a complete checkpoint of that step."""
        return self._path(step).is_dir()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(
        self,
        step: int,
        state: ModelState,
        record: CheckpointRecord,
        config: Config,
        attached: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Path:
        """Write the state after `step` steps with `record`, `config` and the files `attached`, by name.

        Returns the folder. Every rank must call it. Raises SaveError, on every rank, if any rank cannot write; the
        checkpoints before are still there then.
        """
        target = self._path(step)
        partial = self.folder / f"{_PARTIAL}{target.name}"
        with self._on_rank_0(target, state.groups, config):
            if state.groups.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_partial()
        self._write_tensors(partial, target, state, config)
        with self._on_rank_0(target, state.groups, config):
            if state.groups.rank == 0:
                record.write(partial)
                configs.save(config, partial / CONFIG_FILE)
                for name, content in attached.items():
                    (partial / name).write_bytes(content)
                for path in (*filter(Path.is_file, partial.iterdir()), partial):
                    sync(path)
                partial.replace(target)
                sync(self.folder)
        if state.groups.rank == 0:
            self._remove_oldest()
        return target

    def _write_tensors(self, partial: Path, target: Path, state: ModelState, config: Config) -> None:
        distribute = _Distribute(state.groups)
        tensors = {
            key: {
                shard.param.name: distribute(shard, values.to("cpu", copy=True))
                for shard, values in state.items(key, state.owned)
            }
            for key in state.keys
        }
        try:
            dcp.save(tensors, checkpoint_id=partial, process_group=state.groups.cpu)
        except CheckpointException as error:  # on every rank, with what each of them met
            reason = _why_not_written([failure for failure, _ in error.failures.values()])
            if reason is None:
                raise
            raise self._save_error(target, state.groups, config, reason) from None

    @contextmanager
    def _on_rank_0(self, target: Path, groups: Groups, config: Config) -> Iterator[None]:
        """A block in which rank 0 alone writes. If it cannot, all ranks raise SaveError after the block."""
        reason = ""
        try:
            yield
        except OSError as error:
            reason = str(error)
        has_failed = torch.tensor(float(bool(reason)))
        dist.all_reduce(has_failed, dist.ReduceOp.MAX, group=groups.cpu)
        if has_failed:
            raise self._save_error(target, groups, config, reason or "rank 0 could not write")

    def _save_error(self, target: Path, groups: Groups, config: Config, reason: str) -> "SaveError":
        needed, free = checkpoint_bytes(config) / GIB, free_bytes(self.folder) / GIB
        if groups.rank == 0:
            self._remove_partial()  # a disk that it has filled has room again for the files of the run
        return SaveError(
            f"{target} cannot be written: {reason}. A checkpoint has {needed:.3f} GiB, and {free:.3f} GiB "
            "were free when it failed: free some, or lower train.keep_checkpoints"
        )

    def _remove_partial(self) -> None:
        for leftover in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)

    def _remove_oldest(self) -> None:
        for old in self.complete()[: -self._keep] if self._keep else []:
            # Under its own name, a folder that is half deleted would look like a checkpoint.
            shutil.rmtree(old.rename(self.folder / f"{_PARTIAL}{old.name}"))

    def load(self, path: Path, state: ModelState, step: int) -> None:
        """Load this rank's part of a checkpoint of `step` steps, written in any layout. Every rank must call it."""
        state.set_step(step)
        distribute = _Distribute(state.groups)
        for key in state.keys:  # one state at a time, so that memory holds one copy of the parameters and not three
            local = {shard.param.name: torch.empty(shard.shape) for shard in state.shards}
            tensors = {shard.param.name: distribute(shard, local[shard.param.name]) for shard in state.shards}
            dcp.load({key: tensors}, checkpoint_id=path, process_group=state.groups.cpu)
            state.set(key, local)


def _why_not_written(errors: Sequence[BaseException]) -> str | None:
    """What the file system said to the ranks; None if an error is another one."""
    for each in errors:
        error: BaseException | None = each
        while error is not None:
            if isinstance(error, OSError):
                return str(error)
            error = error.__cause__ or error.__context__
    # torch's writer of zip files hides the error of the file system, and the way between ranks loses its context.
    if all("inline_container" in str(each) for each in errors):
        return "a file takes no more bytes, as on a full disk"
    return None


def load_weights(path: Path, shards: Sequence[ParamShard]) -> None:
    """Load only the weights of a checkpoint into complete, unsharded modules in one process."""
    tensors = {shard.param.name: torch.empty(shard.param.shape) for shard in shards}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended here
        dcp.load({"weight": tensors}, checkpoint_id=path, no_dist=True)
    with torch.no_grad():
        for shard in shards:
            shard.values.copy_(tensors[shard.param.name])


class _Distribute:
    """Wraps this rank's shard of a parameter as a part of a global tensor, as torch.distributed.checkpoint expects."""

    def __init__(self, groups: Groups) -> None:
        self._mesh = DeviceMesh.from_group(groups.tp, "cpu") if groups.layout.tp > 1 else None

    def __call__(self, shard: ParamShard, values: Tensor) -> Tensor:
        if shard.tp_dim is None or self._mesh is None:
            return values
        shape = torch.Size(shard.param.shape)
        stride = torch.empty(shape, device="meta").stride()
        placements = [Shard(shard.tp_dim)]
        # Where padding makes the parts of a vocabulary larger than equal parts, a DTensor alone would not know it.
        first = tuple(shard.span.start if dim == shard.tp_dim else 0 for dim in range(len(shape)))
        local = LocalShardsWrapper([values], [first])
        return DTensor.from_local(local, self._mesh, placements, run_check=False, shape=shape, stride=stride)
