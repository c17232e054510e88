"""The parts of a rank as plans of torch.distributed.checkpoint, which finds out what to read of which file."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from foretrain.trainer.checkpoint.parts import Part

PARTS = "parts"
"""The only key of the state that torch.distributed.checkpoint gets: the tensors to write, in the order of the parts."""


class WritePlan(SavePlanner):
    """Writes the tensors of the state `PARTS`, which are copies of the values of `parts`.

    Ranks do not exchange plans: the parts of all of them are the complete state (`parts.py`).
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._tensors: dict[MetadataIndex, Tensor] = {}

    def set_up_planner(
        self, state_dict: Mapping[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        tensors: Sequence[Tensor] = state_dict[PARTS]
        self._tensors = {part.index: tensor for part, tensor in zip(self._parts, tensors, strict=True)}

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_write_item(part) for part in self._parts])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        plans, metadata = create_default_global_save_plan(all_plans)
        # How a nested dictionary of states is made of the names, for readers that know no parts.
        metadata.planner_data = {f"{part.key}.{part.name}": (part.key, part.name) for part in self._parts}
        return plans, metadata

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        return self._tensors[write_item.index]


def _write_item(part: Part) -> WriteItem:
    data = TensorWriteData(part.chunk, TensorProperties(torch.float32), torch.Size(part.shape))
    return WriteItem(part.index, WriteItemType.SHARD, tensor_data=data)


class ReadPlan(LoadPlanner):
    """Reads `parts` into the memory of their values, from a checkpoint of any layout."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self._part_of = {part.index: part for part in parts}

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        assert metadata is not None
        self._metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        """Raises ValueError if a part is not in the checkpoint, or has another shape there."""
        by_name: dict[str, list[Part]] = {}
        for part in self.parts:
            by_name.setdefault(part.index.fqn, []).append(part)
        items: list[ReadItem] = []
        for name, parts in by_name.items():
            found = self._metadata.state_dict_metadata.get(name)
            if not isinstance(found, TensorStorageMetadata) or tuple(found.size) != parts[0].shape:
                has = f"has the shape {tuple(found.size)}" if isinstance(found, TensorStorageMetadata) else "is missing"
                raise ValueError(f"{name} {has} in the checkpoint, and the model needs the shape {parts[0].shape}")
            items += create_read_items_for_chunk_list(name, found, [part.chunk for part in parts])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise TypeError(f"{read_item.storage_index.fqn} is not a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        tensor = self._part_of[read_item.dest_index].values
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            tensor = tensor.narrow(dim, start, length)
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        pass
