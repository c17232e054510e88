"""The stacks of threads are those that Python itself would show, and are found while the threads run."""

import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from foretrain.trainer.watch.stacks import stacks

NUM_READS = 300


def test_the_stack_of_a_thread_that_waits_is_its_traceback() -> None:
    may_end = threading.Event()

    def waits_here() -> None:
        may_end.wait()

    thread = threading.Thread(target=waits_here, name="other")
    thread.start()
    assert thread.ident is not None
    with ThreadPoolExecutor(1) as reader:
        for _ in range(NUM_READS):
            found = reader.submit(stacks).result()
            calls, frames = found["other"], traceback.extract_stack(sys._current_frames()[thread.ident])
            is_equal = [tuple(call) for call in calls] == [(each.filename, each.lineno, each.name) for each in frames]
            is_there = any(str(call).endswith("in waits_here: may_end.wait()") for call in calls)
            if is_equal and is_there:  # the thread may still be on its way
                break
    may_end.set()
    thread.join()
    assert is_equal and is_there, (calls, frames)
    assert next(iter(found)) == "MainThread"


@contextmanager
def block(depth: int) -> Iterator[int]:
    yield depth


def descend(depth: int) -> None:
    """What a thread does whose frames come and go."""
    with block(depth) as left:
        if left:
            descend(left - 1)


def test_the_stacks_of_threads_that_run_are_complete() -> None:
    has_ended = threading.Event()

    def run() -> None:
        while not has_ended.is_set():
            descend(20)

    thread = threading.Thread(target=run, name="runs")
    thread.start()
    found = [stacks()["runs"] for _ in range(NUM_READS)]
    has_ended.set()
    thread.join()
    assert all("run" in [call.function for call in calls] for calls in found)
