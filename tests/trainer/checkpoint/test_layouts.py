"""A checkpoint of any layout continues in any other: the next steps and all states are those of its own run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.parallel.engine import StepResult
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint.checksums import read_checked
from foretrain.trainer.checkpoint.manifest import METADATA, check_content
from foretrain.trainer.checkpoint.metadata import read_metadata
from foretrain.trainer.checkpoint.storage import CheckpointReader, expect_no_messages
from tests.conftest import RunOnRanks
from tests.parallel.workers import gpt2_model, max_difference
from tests.trainer.checkpoint.workers import Way, load_and_continue, load_into_the_wrong_place, save_and_continue

pytestmark = pytest.mark.long

LAYOUTS = {
    "one process": ParallelConfig(),
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=2 zero 2": ParallelConfig(dp=2, zero_stage=2),
    "tp=2": ParallelConfig(tp=2, sp=True),
    "pp=2": ParallelConfig(pp=2),
    "vpp=2": ParallelConfig(pp=2, vpp=2, schedule="interleaved_1f1b"),
    "cp=2": ParallelConfig(cp=2),
    "offload": ParallelConfig(dp=2, zero_stage=2, offload_optimizer=True),
    "tp=2 pp=2": ParallelConfig(tp=2, pp=2),
    "dp=2 tp=2": ParallelConfig(dp=2, tp=2),
    "dp=4 zero 3": ParallelConfig(dp=4, zero_stage=3),
}
BF16 = ["dp=2", "dp=2 zero 2", "tp=2 pp=2", "dp=4 zero 3", "offload"]


def config(name: str, precision: Any = "fp32") -> Config:
    train = TrainConfig(global_batch_size=8, micro_batch_size=2, precision=precision)
    return Config(model=gpt2_model(), parallel=LAYOUTS[name], train=train, optimizer=OptimizerConfig(lr=1e-2))


def world_size(name: str) -> int:
    return Layout.from_config(LAYOUTS[name]).world_size


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in a folder, complete."""
    (checkpoint,) = folder.glob("step-*")
    check_content(checkpoint)
    expect_no_messages()
    file = checkpoint / METADATA
    reader = CheckpointReader(checkpoint, read_metadata(read_checked(file), file))
    found = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        found[name] = torch.full(stored.size, torch.nan)
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


@dataclass(frozen=True)
class Saved:
    """A checkpoint, and the steps of the run that wrote it."""

    folder: Path
    steps: list[StepResult]
    tensors: dict[str, Tensor]


Saves = Callable[..., Saved]


@pytest.fixture(scope="module")
def saves(tmp_path_factory: pytest.TempPathFactory, ranks: RunOnRanks) -> Saves:
    """A function that saves in a layout, once for each precision."""

    @cache
    def save(name: str, precision: str = "fp32") -> Saved:
        folder = tmp_path_factory.mktemp("saved")
        steps, *others = ranks(world_size(name), save_and_continue, config(name, precision), folder)
        assert all(each == steps for each in others), "ranks have different curves"
        return Saved(folder, steps, tensors(folder))

    return save


def check(
    saved: Mapping[str, Saved],
    name: str,
    ranks: RunOnRanks,
    folder: Path,
    precision: str = "fp32",
    tolerance: float = 1e-5,
    load: Callable[..., Any] = load_and_continue,
) -> None:
    """Load what was saved in each layout in the layout `name`, and compare the next steps and every tensor."""
    ways = [Way(each.folder, folder / str(number)) for number, each in enumerate(saved.values())]
    loaded = ranks(world_size(name), load, config(name, precision), ways)
    for (source, origin), way, steps, *others in zip(saved.items(), ways, *loaded, strict=True):
        assert all(each == steps for each in others), "ranks have different curves"
        if source == name:
            assert steps == origin.steps
        assert max_difference(steps, origin.steps) <= tolerance, f"{source} in {name}"
        copied = tensors(way.copy)
        assert copied.keys() == origin.tensors.keys()
        for tensor, value in origin.tensors.items():
            assert torch.equal(copied[tensor], value), f"{tensor} of {source} in {name}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_of_any_layout_continues_in_any_other(
    name: str, saves: Saves, tmp_path: Path, ranks: RunOnRanks
) -> None:
    check({source: saves(source) for source in LAYOUTS}, name, ranks, tmp_path)


@pytest.mark.parametrize("name", ["tp=2 pp=2", "dp=4 zero 3"])
def test_a_checkpoint_in_bf16_continues_in_another_layout(
    name: str, saves: Saves, tmp_path: Path, ranks: RunOnRanks
) -> None:
    check({source: saves(source, "bf16") for source in BF16}, name, ranks, tmp_path, "bf16", tolerance=1e-2)


def test_a_part_that_is_read_into_the_wrong_place_is_found(saves: Saves, tmp_path: Path, ranks: RunOnRanks) -> None:
    with pytest.raises(AssertionError, match="dp=2 in tp=2"):
        check({"dp=2": saves("dp=2")}, "tp=2", ranks, tmp_path, load=load_into_the_wrong_place)
