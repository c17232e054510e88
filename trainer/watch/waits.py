"""The time that a rank's host waits for others in operations of torch.distributed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


class WaitClock:
    """Counts, between `start` and `stop`, the seconds that the thread of `start` waits for collectives and exchanges.

    torch waits for all of them in one function, `Work.wait`, which is replaced meanwhile. On a GPU, the host does not
    wait there, so that nothing is counted.
    """

    def __init__(self) -> None:
        self.waited_s = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count inside this block."""
        original, thread = dist.Work.wait, threading.get_ident()

        def wait(work: dist.Work, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(work, *args, **kwargs)
            began_s = time.perf_counter()
            try:
                return original(work, *args, **kwargs)
            finally:
                self.waited_s += time.perf_counter() - began_s

        dist.Work.wait = wait  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            dist.Work.wait = original  # type: ignore[method-assign]
