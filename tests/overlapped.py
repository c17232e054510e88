"""Functions on ranks for several tests, some at a time, for tests that mostly wait. Not a test module."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from foretrain.launcher.local.pool import Call, CallEnd, RankPool
from foretrain.launcher.local.report import details
from foretrain.launcher.local.run import RankError

Work = tuple[int, Callable[..., Any], tuple[Any, ...]]
"""What `ranks` of tests/conftest.py gets: the number of ranks, the function, its arguments."""
TIMEOUT_S = 300.0


class Overlapped:
    """The work of the tests of a module. While a test waits for its own, that of the tests that follow runs too."""

    def __init__(self, keys: Iterable[str], work: Callable[[str], Work], num_at_once: int) -> None:
        """`work`: makes the work of a key, and may raise ValueError. `keys`: best in the order of the tests."""
        self._ends: dict[str, CallEnd] = {}
        self._waiting: deque[Call] = deque()
        self._refused: dict[str, ValueError] = {}
        for key in keys:
            try:
                world_size, fn, args = work(key)
            except ValueError as error:  # it is raised in the test that wants this key
                self._refused[key] = error
            else:
                target = f"{fn.__module__}:{fn.__qualname__}"
                self._waiting.append(Call(key, target, args, world_size, keep_result=True, timeout_s=TIMEOUT_S))
        self._running = RankPool([{}] * num_at_once).run(self._waiting)

    def __call__(self, key: str) -> list[Any]:
        """Wait until the work of a key has ended, and return what each rank returned, or raise what `ranks` raises."""
        if key in self._refused:
            raise self._refused[key]
        for call in [each for each in self._waiting if each.key == key]:  # it is next, if the tests have another order
            self._waiting.remove(call)
            self._waiting.appendleft(call)
        while key not in self._ends:
            end = next(self._running)
            self._ends[end.call.key] = end
        return _values(self._ends[key])

    def close(self) -> None:
        """End all ranks that still run."""
        self._running.close()


def _values(end: CallEnd) -> list[Any]:
    if end.failure is not None:
        raise RankError(f"{end.problem}\n{details(end.failure, end.call.log_dir)}")
    if end.problem is not None:
        raise TimeoutError(end.problem)
    return end.values()


def selected(request: pytest.FixtureRequest, parameter: str) -> list[str]:
    """The values of a parameter for which tests of a fixture's module are going to run, in their order."""
    found = []
    for item in request.session.items:
        values = getattr(item, "callspec", None)
        if item.path == request.path and values is not None and parameter in values.params:
            found.append(values.params[parameter])
    return list(dict.fromkeys(found))
