"""Makes `cuda` tensors possible, autograd included, in a torch that was built without CUDA.

FakeTensorMode can make tensors of any device, but this torch refuses `cuda` at two places: it has no device guard for
CUDA, and autograd asks CUDA's hooks for streams. Both answers are replaced in the loaded library, with no compiler.
They follow the memory layout of torch's C++ objects, so only the versions of torch with which this was tried are
accepted. What libraries ask of `torch.cuda` is answered as to a process that sees one GPU. All of this holds for the
rest of the process, and nothing is computed.
"""

import atexit
import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

KNOWN_TORCH = ("2.13",)
"""The versions of torch, MAJOR.MINOR, with which the replaced answers were tried."""

_CUDA = 1
"""The number of CUDA in c10::DeviceType."""
_IS_BUILT, _HAS_PRIMARY_CONTEXT = 2, 4
"""Places of these methods among the virtual methods of at::CUDAHooksInterface; two destructors are the first."""

_kept: list[object] = []
"""What C++ refers to, so that Python does not free it."""
_listeners: list[Callable[[str], None]] = []
"""What is called when torch.cuda is asked to wait."""


class UnsupportedTorchError(RuntimeError):
    """This torch is not one with which fake GPUs were tried."""


def check_torch(version: str = torch.__version__, cuda: str | None = torch.version.cuda) -> None:
    """Raise UnsupportedTorchError if fake GPUs were not tried with this build of torch."""
    known = " and ".join(KNOWN_TORCH)
    if ".".join(version.split(".")[:2]) not in KNOWN_TORCH:
        raise UnsupportedTorchError(
            f"fake GPUs were tried with torch {known} only, and this is torch {version}: install torch {known}"
        )
    if cuda is not None:
        raise UnsupportedTorchError(
            f"fake GPUs were tried with builds of torch {known} without CUDA only, and this build has CUDA {cuda}: "
            "install torch from https://download.pytorch.org/whl/cpu"
        )


def install(on_sync: Callable[[str], None]) -> None:
    """Make `cuda` tensors possible in this process; call it once, before DeepSpeed and megatron-core are imported.

    `on_sync` is called with the name of what `torch.cuda` is asked to wait for. Raises UnsupportedTorchError.
    """
    check_torch()
    _install_guard()
    _install_hooks()
    _listeners.append(on_sync)
    _pretend()


def _install_guard() -> None:
    """Install torch's own CUDA guard that does nothing. torch installs it only over a guard without devices."""
    library = ctypes.CDLL(str(_library("libc10.so")))
    registry = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if registry[_CUDA]:
        return
    method = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)(lambda this: 0)  # deviceCount() == 0
    address = ctypes.cast(method, ctypes.c_void_p).value
    virtual_table = (ctypes.c_void_p * 64)(*[address] * 64)
    guard = (ctypes.c_void_p * 1)(ctypes.addressof(virtual_table))
    registry[_CUDA] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()
    assert registry[_CUDA] != ctypes.addressof(guard), "torch has kept the guard that it should have replaced"


def _install_hooks() -> None:
    """Make CUDA's hooks say that CUDA is built and in use, so that torch takes CUDA for the accelerator."""
    get_hooks = ctypes.CDLL(str(_library("libtorch_cpu.so")))._ZN2at6detail12getCUDAHooksEv
    get_hooks.restype = ctypes.c_void_p
    pointer = ctypes.c_void_p.from_address(get_hooks())
    own_table = pointer.value
    assert own_table is not None
    before = 2  # entries in front of the first method: offset to the top, and type information
    table = (ctypes.c_void_p * 96)()
    ctypes.memmove(table, own_table - before * ctypes.sizeof(ctypes.c_void_p), ctypes.sizeof(table))
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda this: True)
    for method in (_IS_BUILT, _HAS_PRIMARY_CONTEXT):
        table[before + method] = ctypes.cast(yes, ctypes.c_void_p).value
    _kept.extend([yes, table])
    pointer.value = ctypes.addressof(table) + before * ctypes.sizeof(ctypes.c_void_p)
    # torch asks its hooks until the very end, when Python has already freed what replaces them.
    atexit.register(setattr, pointer, "value", own_table)


def _library(name: str) -> Path:
    return Path(torch.__file__).parent / "lib" / name


@dataclass(frozen=True)
class _Properties:
    """What torch.cuda.get_device_properties returns."""

    name: str = "fake GPU"
    major: int = 9
    minor: int = 0
    total_memory: int = 80 << 30
    multi_processor_count: int = 132


class _Event:
    """A CUDA event; all work is done at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def wait(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        _ask_to_wait("event.synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0


class _Stream:
    """A CUDA stream; all streams are one, and have no order to keep."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def synchronize(self) -> None:
        _ask_to_wait("stream.synchronize")

    def query(self) -> bool:
        return True

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *args: Any) -> None:
        pass


def _ask_to_wait(operation: str) -> None:
    for on_sync in _listeners:
        on_sync(operation)


_DATA: Any = torch.Tensor.data


def _set_data(fake: Any, value: Any) -> None:
    """Give a fake tensor other data; torch would leave it on the device of its first data."""
    _DATA.__set__(fake, value)
    fake.fake_device = value.device


def _pretend() -> None:
    """Answer what libraries ask of torch.cuda. There is one device: for torch's guard, number 0 is always in use."""
    from torch._subclasses import fake_tensor

    fakes: Any = fake_tensor
    fakes.FakeTensorMode.avoid_device_init = property(lambda self: True)
    fakes.init_gpu_context = lambda device: None
    fakes.FakeTensor.data = property(lambda fake: _DATA.__get__(fake), _set_data)
    properties = _Properties()
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "get_device_capability": (properties.major, properties.minor),
        "get_device_properties": properties,
        "get_device_name": properties.name,
        "get_rng_state": None,
        "current_device": 0,
        **dict.fromkeys(
            ("init", "_lazy_init", "set_device", "set_rng_state", "empty_cache", "reset_peak_memory_stats")
        ),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), 0),
    }
    cuda: Any = torch.cuda
    for name, answer in answers.items():
        setattr(cuda, name, lambda *args, _answer=answer, **kwargs: _answer)
    for name in ("range_push", "range_pop", "mark"):
        setattr(cuda.nvtx, name, lambda *args, **kwargs: 0)
    only = _Stream()
    cuda.Event, cuda.Stream, cuda.stream = _Event, _Stream, nullcontext
    cuda.current_stream = cuda.default_stream = lambda device=None: only
    cuda.synchronize = lambda device=None: _ask_to_wait("synchronize")
    torch.version.cuda = "13.0"
    torch.Tensor.record_stream = lambda self, stream: None  # type: ignore[method-assign,assignment]
