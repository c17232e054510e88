"""Names and sizes of the messages between ranks."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.parallel.groups import Groups

OPERATIONS = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_coalesced_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "alltoall_": "all_to_all",
    "alltoall_base_": "all_to_all",
    "broadcast_": "broadcast",
    "reduce_": "reduce",
    "gather_": "gather",
    "scatter_": "scatter",
    "send": "send",
    "recv_": "recv",
    "recv_any_source_": "recv",
    "barrier": "barrier",
}
"""Usual names of the operations that torch.distributed dispatches as c10d::NAME."""


class GroupNames:
    """The names of process groups by what they are for.

    Libraries make groups of their own. They have the name of the first group with the same ranks, in the order tp, cp,
    replicas, pp, embedding, world, cpu, model; the last are the ranks of tp x pp, which DeepSpeed takes as one group.
    """

    def __init__(self, groups: Groups) -> None:
        layout, at = groups.layout, groups.at
        named = {
            "tp": groups.tp,
            "cp": groups.cp,
            "replicas": groups.replicas,
            "pp": groups.pp,
            "embedding": groups.embedding,
            "world": dist.group.WORLD,
            "cpu": groups.cpu,
        }
        self._by_group: dict[str, str] = {}
        self._by_ranks: dict[tuple[int, ...], str] = {}
        for name, group in named.items():
            if group is not None:
                self._by_group.setdefault(group.group_name, name)
                self._by_ranks.setdefault(_ranks(group), name)
        model = (layout.rank(pp, at.dp, tp, at.cp) for pp, tp in product(range(layout.pp), range(layout.tp)))
        self._by_ranks.setdefault(tuple(model), "model")

    def __call__(self, group: dist.ProcessGroup | None) -> tuple[str, int]:
        """The name and the size of a group; None: all ranks."""
        group = group or dist.group.WORLD
        assert group is not None
        ranks = _ranks(group)
        return self._by_group.get(group.group_name) or self._by_ranks.get(ranks, "other"), len(ranks)


def _ranks(group: dist.ProcessGroup) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(group))


def group_of(args: tuple[Any, ...]) -> dist.ProcessGroup | None:
    """The process group among the arguments of an operation of c10d."""
    for arg in args:
        if isinstance(arg, dist.ProcessGroup):
            return arg
        if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
            return dist.ProcessGroup.unbox(arg)
    return None


def larger_side(args: tuple[Any, ...]) -> tuple[str, str, int, int]:
    """Device, dtype, elements and bytes of the side of an operation, input or output, that has more elements."""
    sides = [list(tensors_in(arg)) for arg in args if isinstance(arg, Tensor | list | tuple)]
    largest = max(sides, key=lambda side: sum(tensor.numel() for tensor in side), default=[])
    if not largest:
        return "cpu", "", 0, 0
    first = largest[0]
    num_elements = sum(tensor.numel() for tensor in largest)
    return first.device.type, str(first.dtype).removeprefix("torch."), num_elements, num_elements * first.itemsize


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
