"""Fixtures for the tests of all rooms."""

import os

# Before numpy and torch are imported, which read it once. Two workers share the cores: their threads would wait for
# each other, and the tests of laws would take twice as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from foretrain.launcher.local.run import call_local
from tests.trainer.corpus import write_corpus

# torch looks up the name of each peer. If a name server loses one request, the test would wait five seconds.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:5")


FIRST = (
    "tests/slurm/test_runs.py",
    "tests/launcher/test_chaos.py",
    "tests/parallel/test_one_curve.py",
    "tests/slurm/",
    "tests/launcher/ray/",
    "tests/trainer/watch/test_hangs.py",
    "tests/trainer/checkpoint/remote/test_runs.py",
    "tests/trainer/watch/test_slow_ranks.py",
    "tests/trainer/checkpoint/",
    "tests/trainer/",
    "tests/scaling/",
    "tests/test_examples.py",
)
"""Beginnings of the paths of tests that start first. While one worker goes through the tests that mostly wait, for a
cluster, until a hang is certain, or for a server, the other computes: xdist gives it the second file, and the third
with it if the second has at most two tests. Files of seconds are last, so that no worker is left alone for long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of FIRST to the beginning, and keep the order of the others."""

    def place(item: pytest.Item) -> int:
        found = [place for place, room in enumerate(FIRST) if item.nodeid.startswith(room)]
        return found[0] if found else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Take what was imported out of every later garbage collection: some libraries ask for many, a second each."""
    gc.freeze()


class RunOnRanks(Protocol):
    """ranks(world_size, fn, *args) -> what each rank returned."""

    def __call__(self, world_size: int, fn: Callable[..., Any], *args: Any, timeout_s: float = 300.0) -> list[Any]: ...


@pytest.fixture(scope="session")
def ranks() -> RunOnRanks:
    """A function that runs fn(*args) on `world_size` fresh processes and returns their results in the order of ranks.

    fn must be at the top level of a module under tests/ that each rank can import, best one without pytest, such as
    tests/parallel/workers.py. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set. fn may initialise the
    process group only once: a second group would read the addresses of the first in torch's store. If a rank fails,
    RankError is raised here with the traceback of that rank.
    """

    def run(world_size: int, fn: Callable[..., Any], *args: Any, timeout_s: float = 300.0) -> list[Any]:
        target = f"{fn.__module__}:{fn.__qualname__}"
        return call_local(target, args, world_size, timeout_s=timeout_s)

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of a few thousand tokens."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))
