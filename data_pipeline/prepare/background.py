"""Long calls into a library, in a thread, so that other work continues and Ctrl-C is handled at once.

The threads are daemons and not those of `concurrent.futures`, for which the interpreter waits when it ends.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WAIT_S = 3.0
"""Longest wait for a call after an interruption: a call that ends while the interpreter shuts down can abort it."""


def start(function: Callable[[], Result]) -> Future[Result]:
    """Start a call in a thread, and return its future."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 (`future.result` raises it)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def abandon(future: Future[Result]) -> None:
    """Wait for a call whose result is not needed, but not for long."""
    wait([future], MAX_WAIT_S)


def map_one_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result, in order.

    The next call runs in a thread while the caller works on a result, and while the following item is made.
    """
    running: tuple[Item, Future[Result]] | None = None
    try:
        for item in items:
            done = None if running is None else (running[0], running[1].result())
            running = item, start(partial(function, item))
            if done is not None:
                yield done
        if running is not None:
            yield running[0], running[1].result()
    except BaseException:
        if running is not None:
            abandon(running[1])
        raise
