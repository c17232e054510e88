"""The ways to save one rank's part of a state: fp32 weights and two moments, under ZeRO 1."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups, ModelParallelUnit
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.pace import Pace
from foretrain.trainer.checkpoint.parts import Part, parts_to_write
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.checkpoint.staging import alone


class Contestant(ABC):
    """One way to save, on one rank. Each save has a number of its own."""

    def __init__(self, config: Config, groups: Groups, folder: Path) -> None:
        """Make the state; `folder` is empty, and the same for all ranks."""
        self.folder = folder

    @abstractmethod
    def start(self, number: int) -> None:
        """Save; returns when training may change the state."""

    def finish(self) -> None:  # noqa: B027 (most are complete when they start)
        """Wait until what this rank writes is written."""

    @property
    def staging_bytes(self) -> int:
        """Size of the copy in host memory from which the state is written, if the contestant knows it."""
        return 0

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what the contestant holds."""


def filled(config: Config, groups: Groups) -> tuple[Any, Any, list[Part]]:
    """An engine, its state, and the parts that this rank writes, with numbers that are not 0."""
    engine, state = build_engine(config, groups, is_loaded=True)
    parts = parts_to_write(state)
    with torch.no_grad():
        for part in parts:
            part.values.uniform_()
    return engine, state, parts


class Ours(Contestant):
    """foretrain."""

    def __init__(self, config: Config, groups: Groups, folder: Path, make_pace: Callable[[float], Pace] = Pace) -> None:
        super().__init__(config, groups, folder)
        self._config = config
        self.engine, self._state, _ = filled(config, groups)
        self.checkpoints = Checkpoints(folder, Retention(newest=1), make_pace)

    def start(self, number: int) -> None:
        record = CheckpointRecord(number, 0, seed=0, data_fingerprint="", mixture_fingerprint="", stage="")
        self.checkpoints.start(number, self._state, record, self._config)

    def finish(self) -> None:
        self.checkpoints.finish()

    @property
    def staging_bytes(self) -> int:
        return self.checkpoints.staging_bytes


class OwnPart(Contestant):
    """A contestant that saves tensors by name: the parts that this rank of foretrain would write."""

    def __init__(self, config: Config, groups: Groups, folder: Path) -> None:
        super().__init__(config, groups, folder)
        self._groups = groups
        self._engine, _, parts = filled(config, groups)
        # Each has a storage of its own, as the states of most optimizers: torch writes complete storages.
        self.tensors = {f"rank{groups.rank}.{part.index}": alone(part.values) for part in parts}


class TorchSave(OwnPart):
    """torch.save, one file for each rank."""

    def start(self, number: int) -> None:
        with (self.folder / f"{number}-rank{self._groups.rank}.pt").open("wb") as file:
            torch.save(self.tensors, file)
            file.flush()
            os.fsync(file.fileno())


class DcpSave(OwnPart):
    """torch.distributed.checkpoint.save with its default planner."""

    def start(self, number: int) -> None:
        writer = dcp.FileSystemWriter(self.folder / str(number))
        dcp.save(self.tensors, storage_writer=writer, process_group=self._groups.cpu)


class DcpAsync(OwnPart):
    """torch.distributed.checkpoint.async_save with its default planner and stager."""

    _work: Future[Any]

    def start(self, number: int) -> None:
        writer = dcp.FileSystemWriter(self.folder / str(number))
        work = dcp.async_save(self.tensors, storage_writer=writer, process_group=self._groups.cpu)
        if isinstance(work, AsyncSaveResponse):
            work.staging_completion.result()
            work = work.upload_completion
        self._work = work

    def finish(self) -> None:
        self._work.result()


class TorchCheckpointing(OwnPart):
    """torch_checkpointing, with the settings that its manual gives for CPUs: it copies in a thread, and writes in a
    process of its own."""

    def __init__(self, config: Config, groups: Groups, folder: Path) -> None:
        super().__init__(config, groups, folder)
        from torch_checkpointing.checkpoint_manager import CheckpointManager
        from torch_checkpointing.config import AsyncCheckpointSaverConfig
        from torch_checkpointing.staging import CheckpointStagerConfig
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        staging = CheckpointStagerConfig(use_pinned_memory=False, use_non_blocking_copy=False)
        save = AsyncCheckpointSaverConfig(staging_config=staging)
        storage = LocalFileSystemStorageConfig(use_direct_io=False)  # its default fails on ext4: writes are not aligned
        self._manager: Any = CheckpointManager(CheckpointManager.Config(save=save, storage_config=storage))
        self._work: Any = None

    def start(self, number: int) -> None:
        self._work = self._manager.save(str(self.folder / str(number)), {"state": self.tensors})
        self._manager._staging_future.result()  # the optimizer waits for it: see CheckpointManager.lock

    def finish(self) -> None:
        self._work.result()

    def close(self) -> None:
        self._manager.close()


class DeepSpeed(Contestant):
    """DeepSpeed's engine.save_checkpoint."""

    def __init__(self, config: Config, groups: Groups, folder: Path) -> None:
        super().__init__(config, groups, folder)
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        engine, _, _ = filled(config, groups)
        model = _Parameters([parameter.shape for parameter in engine.zero.module.parameters()])
        del engine
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "steps_per_print": None,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": config.parallel.zero_stage},
        }
        self._engine, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters()),
            mpu=ModelParallelUnit(groups),
            dist_init_required=False,
            config=settings,
        )
        self._engine.backward(self._engine(torch.ones(1)))
        self._engine.step()  # makes the moments

    def start(self, number: int) -> None:
        self._engine.save_checkpoint(str(self.folder), tag=str(number))


class _Parameters(nn.Module):
    """A model that is nothing but parameters."""

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self._all = nn.ParameterList(torch.rand(shape) for shape in shapes)

    def forward(self, factor: Tensor) -> Tensor:
        return sum((parameter.sum() * factor.sum() for parameter in self._all), torch.zeros(()))


CONTESTANTS = {
    "foretrain": f"{__name__}:Ours",
    "torch.save": f"{__name__}:TorchSave",
    "dcp.save": f"{__name__}:DcpSave",
    "dcp.async_save": f"{__name__}:DcpAsync",
    "torch_checkpointing": f"{__name__}:TorchCheckpointing",
    "DeepSpeed": f"{__name__}:DeepSpeed",
}
"""Module and class of each contestant, by the name in the results."""
OURS = "foretrain"
