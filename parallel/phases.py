"""The time that the device spends in each phase of a step, without a wait of the host."""

import time

import torch


class PhaseClock:
    """Measures phases that follow one another, from when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._names: list[str] = []
        self._moments: list[torch.cuda.Event | float] = [self._now()]

    def end(self, name: str) -> None:
        """End a phase here; the next begins."""
        self._names.append(name)
        self._moments.append(self._now())

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase. On a GPU, the host must have waited for what came after the last one."""
        pairs = zip(self._moments, self._moments[1:], strict=False)
        return dict(zip(self._names, (_between(start, end) for start, end in pairs), strict=True))

    def _now(self) -> torch.cuda.Event | float:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float):
        assert isinstance(end, float)
        return end - start
    assert not isinstance(end, float)
    return start.elapsed_time(end) / 1000
