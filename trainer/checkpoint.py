"""Checkpoints without a layout: whole parameters by name, in fp32, with their moments; any layout loads them.

A checkpoint is a folder `step-00000100` that torch.distributed.checkpoint wrote, with `run.json` and `config.yaml`
beside its shards. It is written under another name and renamed when every rank is done: it is complete or not there.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups
from foretrain.parallel.zero import Zero
from foretrain.trainer.model.gpt import LocalParam
from foretrain.trainer.run_folder import CONFIG_FILE, RECORD

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
        zero: Zero,
        local_params: Sequence[LocalParam],
        groups: Groups,
        record: dict[str, Any],
        config: Config,
        attached: Sequence[Path] = (),
    ) -> Path:
        """Write the state after `step` steps, with `record` as its run.json, beside `config` and copies of `attached`.

        Every rank calls it.
        """
        target = self._path(step)
        partial = self.folder / f"{_PARTIAL}{target.name}"
        if groups.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(leftover)
        dist.barrier()
        state = {key: _tensors(local_params, groups, _Reader(zero, key)) for key in _states(zero)}
        dcp.save(state, checkpoint_id=partial)
        if groups.rank == 0:
            (partial / RECORD).write_text(json.dumps(record, indent=1))
            configs.save(config, partial / CONFIG_FILE)
            for path in attached:
                shutil.copy(path, partial)
            _sync(partial)
            partial.replace(target)
            _sync(self.folder)
            for old in self.complete()[: -self._keep] if self._keep else []:
                # Under its own name a folder that is half deleted would pass for a checkpoint.
                shutil.rmtree(old.rename(self.folder / f"{_PARTIAL}{old.name}"))
        dist.barrier()
        return target

    def load(self, path: Path, zero: Zero, local_params: Sequence[LocalParam], groups: Groups, step: int) -> None:
        """Put a checkpoint taken after `step` steps, in whatever layout, into this rank. Every rank calls it."""
        zero.set_step(step)
        for key in _states(zero):  # one at a time, to hold one copy and not three
            tensors = _tensors(local_params, groups, lambda local: torch.empty(local_shape(local)))
            dcp.load({key: tensors}, checkpoint_id=path)
            for parameter, pieces in _by_parameter(local_params).items():
                whole = torch.zeros(_shape(parameter))
                for local in pieces:
                    whole[local.rows] = _local(tensors[local.param.name])
                zero.set(parameter, key, whole.to(groups.device))


def load_weights(path: Path, local_params: Sequence[LocalParam]) -> None:
    """Put a checkpoint's weights alone into whole, unsharded modules in one process."""
    tensors = {local.param.name: torch.empty(local.param.shape) for local in local_params}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant to be here
        dcp.load({"weight": tensors}, checkpoint_id=path, no_dist=True)
    with torch.no_grad():
        for local in local_params:
            local.parameter[local.rows].copy_(tensors[local.param.name])


def local_shape(local: LocalParam) -> tuple[int, ...]:
    """Shape of this rank's part of a parameter."""
    shape = list(local.param.shape)
    shape[local.tp_dim or 0] = local.cut.stop - local.cut.start
    return tuple(shape)


def _states(zero: Zero) -> tuple[str, ...]:
    return ("weight", *zero.moments)


class _Reader:
    """Reads this rank's part of one state; a tensor is gathered over dp once, for all the pieces that it holds."""

    def __init__(self, zero: Zero, key: str) -> None:
        self._zero, self._key = zero, key
        self._parameter: nn.Parameter | None = None
        self._whole = torch.empty(0)

    def __call__(self, local: LocalParam) -> Tensor:
        if self._parameter is not local.parameter:
            self._parameter = local.parameter
            self._whole = self._zero.get(local.parameter, self._key).detach().cpu()
        return self._whole[local.rows].clone()


def _tensors(
    local_params: Sequence[LocalParam], groups: Groups, make: Callable[[LocalParam], Tensor]
) -> dict[str, Tensor]:
    """For each parameter this rank's part of its global tensor, as torch.distributed.checkpoint takes it."""
    mesh = DeviceMesh.from_group(groups.tp, "cpu") if groups.layout.tp > 1 else None
    tensors = {}
    for local in local_params:
        part = make(local)
        if mesh is not None and local.tp_dim is not None:
            shape = torch.Size(local.param.shape)
            stride = torch.empty(shape, device="meta").stride()
            placements = [Shard(local.tp_dim)]
            part = DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=stride)
        tensors[local.param.name] = part
    return tensors


def _by_parameter(local_params: Sequence[LocalParam]) -> dict[nn.Parameter, list[LocalParam]]:
    pieces: dict[nn.Parameter, list[LocalParam]] = {}
    for local in local_params:
        pieces.setdefault(local.parameter, []).append(local)
    return pieces


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves parameters empty between uses


def _sync(folder: Path) -> None:
    """Make a folder's files and their names durable."""
    for path in (*filter(Path.is_file, folder.iterdir()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
