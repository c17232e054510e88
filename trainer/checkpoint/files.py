"""Checkpoints that any layout can load: complete parameters by name, in fp32, with the states of the optimizer.

A checkpoint is a folder `step-00000100`, written by torch.distributed.checkpoint, with `run.json` and `config.yaml`
beside the shards. It is written under another name and renamed when every rank is done, so it is complete or absent.
"""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import sync
from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.state import ModelState

_PARTIAL = "partial-"


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

        Returns the folder. Every rank must call it.
        """
        target = self._path(step)
        partial = self.folder / f"{_PARTIAL}{target.name}"
        if state.groups.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(leftover)
        dist.barrier()
        distribute = _Distribute(state.groups)
        tensors = {
            key: {
                shard.param.name: distribute(shard, values.to("cpu", copy=True))
                for shard, values in state.items(key, state.owned)
            }
            for key in state.keys
        }
        dcp.save(tensors, checkpoint_id=partial, process_group=state.groups.cpu)
        if state.groups.rank == 0:
            record.write(partial)
            configs.save(config, partial / CONFIG_FILE)
            for name, content in attached.items():
                (partial / name).write_bytes(content)
            for path in (*filter(Path.is_file, partial.iterdir()), partial):
                sync(path)
            partial.replace(target)
            sync(self.folder)
            for old in self.complete()[: -self._keep] if self._keep else []:
                # Under its own name, a folder that is half deleted would look like a checkpoint.
                shutil.rmtree(old.rename(self.folder / f"{_PARTIAL}{old.name}"))
        dist.barrier()
        return target

    def load(self, path: Path, state: ModelState, step: int) -> None:
        """Load this rank's part of a checkpoint of `step` steps, written in any layout. Every rank must call it."""
        state.set_step(step)
        distribute = _Distribute(state.groups)
        for key in state.keys:  # one state at a time, so that memory holds one copy of the parameters and not three
            local = {shard.param.name: torch.empty(shard.shape) for shard in state.shards}
            tensors = {shard.param.name: distribute(shard, local[shard.param.name]) for shard in state.shards}
            dcp.load({key: tensors}, checkpoint_id=path, process_group=state.groups.cpu)
            state.set(key, local)


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
