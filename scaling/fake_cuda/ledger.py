"""Sums of what happens, phase by phase."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from foretrain.scaling.fake_cuda.memory import LiveStorages, Place
from foretrain.scaling.fake_cuda.record import Collective, Kernel, Memory, Phase, Site, Sync
from foretrain.scaling.fake_cuda.sites import call_site


@dataclass
class _Sums:
    """What has happened in one phase so far; the keys are the fields of the records without the count."""

    syncs: Counter[tuple[str, Site, int]] = field(default_factory=Counter)
    collectives: Counter[tuple[str, str, int, str, str, int, int, Site]] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    kernel_bytes: Counter[str] = field(default_factory=Counter)
    peak: dict[Place, int] = field(default_factory=lambda: {"cuda": 0, "cpu": 0})
    live: dict[Place, int] = field(default_factory=lambda: {"cuda": 0, "cpu": 0})


class Ledger:
    """Adds events to the phase in which they happen: the innermost one that has been entered.

    Events outside all phases are not counted.
    """

    def __init__(self, storages: LiveStorages) -> None:
        self._storages = storages
        self._sums: dict[str, _Sums] = {}
        self._inside: list[_Sums] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase; it may be entered several times, and inside another one."""
        self._update_memory()
        self._inside.append(self._sums.setdefault(name, _Sums()))
        try:
            yield
        finally:
            self._update_memory()
            self._inside.pop()

    def during(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are a phase."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return call

    def take(self) -> tuple[Phase, ...]:
        """The phases since the last call, in the order in which they were first entered."""
        taken, self._sums = self._sums, {}
        return tuple(_phase(name, sums) for name, sums in taken.items())

    def sync(self, operation: str, num_bytes: int = 0) -> None:
        """The host waits for the device."""
        if self._inside:
            self._inside[-1].syncs[operation, call_site(), num_bytes] += 1

    def collective(
        self, operation: str, group: tuple[str, int], device: str, dtype: str, num_elements: int, num_bytes: int
    ) -> None:
        """A message over a group of this name and size."""
        if self._inside:
            key = (operation, *group, device, dtype, num_elements, num_bytes, call_site())
            self._inside[-1].collectives[key] += 1

    def kernel(self, name: str, num_bytes: int) -> None:
        """A call on the device that moves this number of bytes."""
        if self._inside:
            self._inside[-1].kernels[name] += 1
            self._inside[-1].kernel_bytes[name] += num_bytes

    def _update_memory(self) -> None:
        """At the border of phases: what was the peak until now is that of the phase that was inside."""
        if self._inside:
            sums = self._inside[-1]
            sums.peak = {place: max(peak, sums.peak[place]) for place, peak in self._storages.peak.items()}
            sums.live = dict(self._storages.live)
        self._storages.start_peak()


def _phase(name: str, sums: _Sums) -> Phase:
    return Phase(
        name,
        tuple(sorted(Sync(*key, count) for key, count in sums.syncs.items())),
        tuple(sorted(Collective(*key, count) for key, count in sums.collectives.items())),
        tuple(sorted(Kernel(name, count, sums.kernel_bytes[name]) for name, count in sums.kernels.items())),
        Memory(sums.live["cuda"], sums.peak["cuda"]),
        Memory(sums.live["cpu"], sums.peak["cpu"]),
    )
