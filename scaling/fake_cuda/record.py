"""What one rank did on a fake GPU, as typed records that can be saved as JSON. Imports no torch."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

VERSION = 1

MATRIX_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "flash_attention", "flash_attention_backward"})
"""Kernels whose time is set by their arithmetic, and not by the bytes that they move."""

STEP_PHASES = ("forward_backward", "reduce", "update")
"""The phases of a step. What is reduced during the backward pass is in the first."""


@dataclass(frozen=True, order=True)
class Site:
    """Where something was called."""

    ours: str
    """Module, line and function of this project; "" if only a library is on the stack, as in a backward pass."""
    theirs: str
    """Module, line and function of the library that called; "" if this project called itself."""

    def __str__(self) -> str:
        return " < ".join(filter(None, (self.theirs, self.ours))) or "(backward pass)"


@dataclass(frozen=True, order=True)
class Sync:
    """The host waited for the device, `count` times at the same place."""

    operation: str
    """"item", "nonzero", "equal", "copy to host", "copy to device", "synchronize", "object collective" and others."""
    site: Site
    num_bytes: int
    """Bytes of each copy; 0 for other operations."""
    count: int


@dataclass(frozen=True, order=True)
class Collective:
    """A message of one size between the ranks of a group, `count` times at the same place."""

    operation: str
    """Such as "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "recv"."""
    group: str
    """"tp", "cp", "pp", "replicas" (dp x cp), "embedding", "world", or "model" (tp x pp); "other" for other ranks."""
    group_size: int
    device: str
    """"cuda", or "cpu" for tensors and objects in host memory."""
    dtype: str
    num_elements: int
    """Elements of the larger side: what an all-gather returns, and what a reduce-scatter takes. 0 for objects, whose
    size is not known."""
    num_bytes: int
    """Bytes of the larger side."""
    site: Site
    count: int


@dataclass(frozen=True, order=True)
class Kernel:
    """Calls of one operation on the device."""

    name: str
    count: int
    num_bytes: int
    """Bytes that all these calls read and write, if each element is moved once."""


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors in one memory; what an allocator adds by fragmentation is not in them."""

    live_bytes: int
    """At the end of the phase."""
    peak_bytes: int
    """The most at any moment of the phase."""


@dataclass(frozen=True)
class Phase:
    """What happened in one phase of a run."""

    name: str
    """"build", one of STEP_PHASES, "save" or "load"."""
    syncs: tuple[Sync, ...]
    collectives: tuple[Collective, ...]
    kernels: tuple[Kernel, ...]
    device: Memory
    host: Memory

    @property
    def num_syncs(self) -> int:
        """How often the host waited."""
        return sum(sync.count for sync in self.syncs)

    @property
    def num_kernels(self) -> int:
        """Calls on the device."""
        return sum(kernel.count for kernel in self.kernels)

    @property
    def bytes_outside_products(self) -> int:
        """Bytes that kernels moved, without those of matrix products and attention."""
        return sum(kernel.num_bytes for kernel in self.kernels if kernel.name not in MATRIX_PRODUCTS)


@dataclass(frozen=True)
class RankRecord:
    """One rank of a config: how it was built, its steps, and a checkpoint that was saved and loaded."""

    config: str
    """Hash of the config."""
    layout: str
    rank: int
    place: str
    """The rank's place in the layout, in words."""
    torch: str
    """Version of torch."""
    num_microbatches: int
    num_parameters: int
    """Parameters of the table that this rank holds, its shards of them counted."""
    build: Phase
    steps: tuple[tuple[Phase, ...], ...]
    """The phases of each step. The first step also makes what is kept for later ones."""
    save: Phase | None
    load: Phase | None
    version: int = VERSION

    @property
    def phases(self) -> Iterator[Phase]:
        """Each phase, with those of the last step only."""
        yield self.build
        yield from self.steps[-1] if self.steps else ()
        yield from (phase for phase in (self.save, self.load) if phase is not None)

    def phase(self, name: str) -> Phase:
        """A phase by its name; of the steps, the last. Raises KeyError if the run had no such phase."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise KeyError(name)

    @property
    def peak_device_bytes(self) -> int:
        """The most bytes that the device held at any moment."""
        every = [self.build, *(phase for step in self.steps for phase in step), self.save, self.load]
        return max(phase.device.peak_bytes for phase in every if phase is not None)

    def to_json(self, indent: int | None = None) -> str:
        """The JSON text of the record, with a final newline."""
        return json.dumps(asdict(self), indent=indent) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record of a JSON text. Raises ValueError for a text of a later version."""
        found = json.loads(text)
        if found["version"] > VERSION:
            raise ValueError(f"the record has version {found['version']}: update foretrain to read it")
        phases = {name: found[name] and _phase(found[name]) for name in ("build", "save", "load")}
        steps = tuple(tuple(map(_phase, step)) for step in found["steps"])
        return cls(**{**found, **phases, "steps": steps})


def _phase(found: dict[str, Any]) -> Phase:
    return Phase(
        found["name"],
        tuple(Sync(**{**each, "site": Site(**each["site"])}) for each in found["syncs"]),
        tuple(Collective(**{**each, "site": Site(**each["site"])}) for each in found["collectives"]),
        tuple(Kernel(**each) for each in found["kernels"]),
        Memory(**found["device"]),
        Memory(**found["host"]),
    )
