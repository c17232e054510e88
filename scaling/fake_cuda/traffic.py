"""Which operations run on the device, what they move, and which make the host wait."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from foretrain.scaling.fake_cuda.collectives import tensors_in
from foretrain.scaling.fake_cuda.memory import place_of

aten = torch.ops.aten

COPIES = {aten._to_copy.default: 0, aten.copy_.default: 1}
"""Copies, and the place of the source among their arguments."""

_WITHOUT_KERNEL = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "detach", "alias"}
    | {"lift_fresh", "_unsafe_view", "_reshape_alias", "record_stream"}
)
"""Operations that only make or describe tensors."""
_GATHERS = frozenset({"embedding", "index", "index_select", "gather", "masked_select"})
"""They read from their first input only as much as they write."""
_FILLS = frozenset({"fill_", "zero_", "copy_"})
"""They do not read the tensor that they write."""

_DATA_DEPENDENT = {
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "nonzero",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten._local_scalar_dense.default: "item",
}
"""Operations whose result, or its shape, the host must read from the device."""
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


def kernel_name(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> str | None:
    """The name of the kernel that an operation is on the device; None if there is none."""
    name = func._schema.name.removeprefix("aten::")
    if func.is_view or name in _WITHOUT_KERNEL:
        return None
    if func in COPIES:
        source, target = args[COPIES[func]], args[0] if func is aten.copy_.default else out
        if place_of(source) != place_of(target):
            return "copy to device" if place_of(target) == "cuda" else "copy to host"
    return name if any(place_of(tensor) == "cuda" for tensor in _written(func, args, kwargs, out)) else None


def moved_bytes(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Bytes that a kernel reads and writes, if it moves each element once."""
    name = func._schema.name.removeprefix("aten::")
    written = sum(map(_num_bytes, _written(func, args, kwargs, out)))
    inputs = list(tensors_in((args, kwargs)))
    if name in _GATHERS:
        return 2 * written + sum(map(_num_bytes, inputs[1:]))
    if name in _FILLS:
        inputs = inputs[1:]
    return written + sum(map(_num_bytes, inputs))


def waits(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each reason why an operation other than a copy makes the host wait, and the bytes that it copies."""
    if not args or not isinstance(args[0], Tensor) or place_of(args[0]) != "cuda":
        return
    if func in _DATA_DEPENDENT:
        yield _DATA_DEPENDENT[func], 0
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        yield "repeat_interleave", 0
    if func in _INDEXED:
        for index in (each for each in args[1] if each is not None):
            if place_of(index) == "cpu":
                yield "copy to device", _num_bytes(index)
            if index.dtype in (torch.bool, torch.uint8) and not _is_masked_fill(func, args):
                yield "nonzero", 0


def copy_waits(source: Tensor, target: Tensor, non_blocking: bool, is_pinned: bool) -> tuple[str, int] | None:
    """The reason why a copy makes the host wait, and its bytes; None if it does not.

    Only between the device and pinned memory can a copy not block. CUDA may wait for the stream before it copies to or
    from pageable memory. `is_pinned`: whether the tensor in host memory is pinned.
    """
    if place_of(source) == place_of(target):
        return None
    if non_blocking and is_pinned:
        return None
    return "copy to device" if place_of(target) == "cuda" else "copy to host", _num_bytes(target)


def _is_masked_fill(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether torch fills by a mask instead of looking for its indices: for a single value on the host."""
    if func is aten.index.Tensor:
        return False
    value, accumulate = args[2], len(args) > 3 and args[3]
    return value.numel() == 1 and place_of(value) == "cpu" and not accumulate


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> list[Tensor]:
    """The tensors that an operation writes: what it returns, and the arguments that it changes."""
    changed = [args[place] if place < len(args) else kwargs.get(name) for place, name in _changed(func)]
    return list({id(tensor): tensor for tensor in tensors_in([out, changed])}.values())


@cache
def _changed(func: OpOverload) -> list[tuple[int, str]]:
    """Place and name of each argument that an operation changes."""
    arguments = enumerate(func._schema.arguments)
    return [(place, arg.name) for place, arg in arguments if arg.alias_info is not None and arg.alias_info.is_write]


def _num_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; an expanded one has no more than its storage."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())
