"""Long calls into a library, in a thread, so that Ctrl-C is heard meanwhile and other work goes on."""

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_S = 3.0
"""How long an interruption waits for a call: one that ends while the interpreter shuts down can make it abort."""


class Job(Generic[Result]):
    """A call in a thread, which does not keep the process alive."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:  # noqa: BLE001 (raised again by `result`)
            self._error = error

    def result(self) -> Result:
        """Wait for the call, and return or raise what it does."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results.pop()

    def give_up(self) -> None:
        """Wait for the call a little, whatever comes of it."""
        self._thread.join(PATIENCE_S)


def one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, in order.

    While the caller works on one of them, the next call runs; and while that runs, the item after it is made.
    """
    running: tuple[Item, Job[Result]] | None = None
    try:
        for item in items:
            done = None if running is None else (running[0], running[1].result())
            running = item, Job(partial(function, item))
            if done is not None:
                yield done
        if running is not None:
            yield running[0], running[1].result()
    except BaseException:
        if running is not None:
            running[1].give_up()
        raise
