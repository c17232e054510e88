"""The file of a rank is what torch.distributed.checkpoint would write, without what makes that slow."""

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.serialization import config

from foretrain.trainer.checkpoint import storage
from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.checksums import ChecksumReader
from foretrain.trainer.checkpoint.frames import frame_of
from foretrain.trainer.checkpoint.manifest import METADATA
from foretrain.trainer.checkpoint.parts import Part
from foretrain.trainer.checkpoint.plans import PARTS, WritePlan
from foretrain.trainer.checkpoint.storage import RankWriter, expect_no_messages

SHAPES = st.lists(st.integers(1, 400), max_size=4).map(tuple).filter(lambda shape: prod(shape) < 100_000)
FILE = "__0_0.distcp"


def torch_saved(folder: Path, *tensors: Tensor) -> bytes:
    """What torch.save writes of some tensors, one after another, without checksums of their elements."""
    path = folder / "torch"
    with config.patch("save.compute_crc32", False), path.open("wb") as file:  # type: ignore[attr-defined]
        for tensor in tensors:
            torch.save(tensor, file)
    return path.read_bytes()


@given(SHAPES)
def test_a_tensor_in_its_frame_is_what_torch_saves(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...]
) -> None:
    tensor = torch.rand(shape)
    frame = frame_of(torch.zeros(shape))
    assert frame.before + tensor.numpy().tobytes() + frame.after == torch_saved(tmp_path_factory.getbasetemp(), tensor)


def test_a_tensor_that_is_a_part_of_a_storage_has_no_frame() -> None:
    with pytest.raises(AssertionError, match="shares its storage"):
        frame_of(torch.zeros(10)[:5])


def save(writer: dcp.FileSystemWriter, tensors: dict[str, Tensor]) -> None:
    """Write complete parameters as one rank does."""
    expect_no_messages()
    parts = [
        Part("weight", name, tuple(tensor.shape), Box((0,) * tensor.dim(), tuple(tensor.shape)), tensor)
        for name, tensor in tensors.items()
    ]
    state = {PARTS: list(tensors.values())}
    dcp.save(state, storage_writer=writer, planner=WritePlan(parts), no_dist=True, use_collectives=False)


def test_the_file_of_a_rank_is_what_torch_would_write_one_after_another(tmp_path: Path) -> None:
    shapes = ((300, 1000), (7,), (3, 5, 2), (300, 1000))
    tensors = {str(number): torch.rand(shape) for number, shape in enumerate(shapes)}
    save(RankWriter(tmp_path, 0), tensors)
    with ChecksumReader(tmp_path / FILE) as reader:
        assert reader.read() == torch_saved(tmp_path, *tensors.values())
    save(dcp.FileSystemWriter(tmp_path / "theirs", sync_files=False), tensors)
    found = []
    for folder in (tmp_path, tmp_path / "theirs"):
        (folder / "__0.metadata").rename(folder / METADATA)
        found.append(dcp.FileSystemReader(folder).read_metadata())
    ours, theirs = found
    assert ours.storage_data == theirs.storage_data
    assert ours.state_dict_metadata == theirs.state_dict_metadata


def test_torch_saves_nothing_after_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes a tensor in dozens of small pieces under Python's lock, for which training would wait."""
    saved: list[tuple[int, ...]] = []
    save_one = torch.save

    def noting_save(tensor: Tensor, *args: Any) -> None:
        saved.append(tuple(tensor.shape))
        save_one(tensor, *args)

    monkeypatch.setattr(storage, "_FRAMES", {})
    monkeypatch.setattr(torch, "save", noting_save)
    for number in range(3):
        save(RankWriter(tmp_path / str(number), 0), {str(each): torch.rand(3, 2 + each // 2) for each in range(10)})
    assert saved == [(3, 2 + each) for each in range(5)]
