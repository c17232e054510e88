"""Garbage collections of a run: at fixed steps, the same on every rank, in place of Python's own.

Python collects when a process has made enough objects, so each rank would stop in another step, and all others would
wait for it there. Almost all objects of a step are freed without it: only those in reference cycles wait for a
collection.
"""

import gc
from types import TracebackType
from typing import Self

YOUNG_EVERY = 50
"""Steps between collections of what was made since the collection before: a fraction of a millisecond each."""
FULL_EVERY = 1000
"""Steps between collections of all objects of the process: up to a few hundred milliseconds, if they are many."""


class FixedCollections:
    """A context in which garbage is collected by `end_step` alone. Afterwards Python collects again, if it did before.

    It is for the entire process: what other threads make is collected at the same steps.
    """

    def __enter__(self) -> Self:
        self._was_enabled = gc.isenabled()
        gc.disable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._was_enabled:
            gc.enable()

    def end_step(self, number: int) -> None:
        """Collect garbage after step `number` if it is due. Every rank calls it at the same steps."""
        if number % FULL_EVERY == 0:
            gc.collect()
        elif number % YOUNG_EVERY == 0:
            gc.collect(1)
