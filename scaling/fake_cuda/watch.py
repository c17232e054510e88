"""The dispatch mode that sees every operation of torch: it counts, and answers what only data could answer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from foretrain.scaling.fake_cuda.collectives import OPERATIONS, GroupNames, group_of, larger_side, tensors_in
from foretrain.scaling.fake_cuda.ledger import Ledger
from foretrain.scaling.fake_cuda.memory import LiveStorages, place_of
from foretrain.scaling.fake_cuda.traffic import COPIES, aten, copy_waits, kernel_name, moved_bytes, waits


class Watch(TorchDispatchMode):
    """Counts into `ledger` what happens between entering and leaving it. Enter it inside a FakeTensorMode.

    Operations on real tensors in host memory, such as the positions of a batch, are computed. Others are not: a number
    that is read from the device is 1, a truth value is false, and every element of a mask counts as true.
    """

    current: ClassVar["Watch | None"] = None
    """The one that is entered."""

    def __init__(self, name_of_group: GroupNames) -> None:
        super().__init__()
        self.storages = LiveStorages()
        self.ledger = Ledger(self.storages)
        self._name_of_group = name_of_group
        self._is_paused = False

    def __enter__(self) -> "Watch":
        Watch.current = self
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        Watch.current = None

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._is_paused:
            return func(*args, **kwargs)
        inputs = list(tensors_in((args, kwargs)))
        if _is_real(inputs) and "cuda" not in str(kwargs.get("device")):
            if func._schema.name.startswith("c10d::"):
                self._count_collective(func._schema.name.removeprefix("c10d::"), args)
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        for operation, num_bytes in waits(func, args, kwargs):
            self.ledger.sync(operation, num_bytes)
        if func in _ANSWERS:
            return _ANSWERS[func](args[0])
        pins = self._pins(func, args, kwargs)
        out = func(*_as_if_true(func, args), **kwargs)
        self._count(func, args, kwargs, out, pins)
        for tensor in tensors_in(out):
            if not isinstance(tensor, FakeTensor) or tensor.device.type == "meta":
                continue  # it wraps other tensors, or has shapes only, and so has no memory itself
            if pins:
                self.storages.pin(tensor)
            else:
                self.storages.follow(tensor)
        return out

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy of a host tensor in pinned memory; the tensor itself if it is there already."""
        if self.storages.is_pinned(tensor):
            return tensor
        pinned = tensor.clone()
        self.storages.pin(pinned)
        return pinned

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Operations are computed and not counted."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def call_kernel(self, name: str, reads: Iterable[Tensor], writes: Iterable[Tensor]) -> None:
        """Count a kernel that torch has for CUDA only."""
        self.ledger.kernel(name, sum(tensor.numel() * tensor.itemsize for tensor in (*reads, *writes)))

    def exchange_objects(self, operation: str, group: dist.ProcessGroup | None) -> None:
        """Count a collective of Python objects, which goes through host memory."""
        self.ledger.collective(operation, self._name_of_group(group), "cpu", "", 0, 0)

    def _pins(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the result is in pinned memory, which a fake tensor cannot ask for."""
        asked = bool(kwargs.pop("pin_memory", False))
        # torch pins the result of a copy to the host that must not block.
        goes_to_host = func is aten._to_copy.default and str(kwargs.get("device")) == "cpu"
        return asked or (goes_to_host and bool(kwargs.get("non_blocking")) and place_of(args[0]) == "cuda")

    def _count(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, pins: bool) -> None:
        name = func._schema.name
        if name.startswith("c10d::"):
            self._count_collective(name.removeprefix("c10d::"), args)
            return
        if func in COPIES:
            source, target = args[COPIES[func]], args[0] if func is aten.copy_.default else out
            non_blocking = bool(kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:] == (True,)))
            on_host = source if place_of(target) == "cuda" else target
            is_pinned = self.storages.is_pinned(on_host) or (pins and on_host is target)
            wait = copy_waits(source, target, non_blocking, is_pinned)
            if wait is not None:
                self.ledger.sync(*wait)
        kernel = kernel_name(func, args, kwargs, out)
        if kernel is not None:
            self.ledger.kernel(kernel, moved_bytes(func, args, kwargs, out))

    def _count_collective(self, operation: str, args: tuple[Any, ...]) -> None:
        device, dtype, num_elements, num_bytes = larger_side(args)
        if operation == "barrier" and device == "cuda":
            self.ledger.sync("barrier")
        group = self._name_of_group(group_of(args))
        self.ledger.collective(OPERATIONS.get(operation, operation), group, device, dtype, num_elements, num_bytes)


def watch() -> Watch:
    """The watch that is entered. Raises RuntimeError if there is none."""
    if Watch.current is None:
        raise RuntimeError("torch works on fake GPUs in this process, and nothing counts what it does")
    return Watch.current


def note_sync(operation: str) -> None:
    """Count that torch.cuda was asked to wait."""
    if Watch.current is not None:
        Watch.current.ledger.sync(operation)


def _is_real(inputs: list[Tensor]) -> bool:
    """Whether there are inputs, all of which hold values in host memory."""
    return bool(inputs) and all(type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in inputs)


def _item(tensor: Tensor) -> bool | int | float:
    constant = getattr(tensor, "constant", None)
    if constant is not None:
        with unset_fake_temporarily():
            return constant.item()
    if tensor.dtype == torch.bool:
        return False
    if tensor.dtype == torch.uint8:  # a flag of DeepSpeed
        return 0
    return 1.0 if tensor.dtype.is_floating_point else 1


def _equal(tensor: Tensor) -> bool:
    return True


_ANSWERS = {aten._local_scalar_dense.default: _item, aten.equal.default: _equal}


def _as_if_true(func: OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of an operation, with the indices of all elements in the place of a mask."""
    if func is not aten.index.Tensor:
        return args
    indices: list[Tensor | None] = []
    for index in args[1]:
        is_mask = isinstance(index, FakeTensor) and index.dtype in (torch.bool, torch.uint8)
        indices += index.flatten().long().expand(index.dim(), -1).unbind() if is_mask else [index]
    return (args[0], indices, *args[2:])
