"""Fixtures that every room's tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from foretrain.launcher.local.run import call_local
from tests.trainer.corpus import write_corpus

# torch asks for the name of each peer: a name server that loses one question would hold a test up for five seconds.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:5")


WAITS_MOST = ("tests/slurm/test_runs.py", "tests/launcher/ray/test_training.py", "tests/slurm/", "tests/launcher/ray/")
"""Tests that mostly wait for a cluster: begun first, so that other ones fill the time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait most at the beginning, and leave the order of the others."""

    def place(item: pytest.Item) -> int:
        found = [place for place, room in enumerate(WAITS_MOST) if item.nodeid.startswith(room)]
        return found[0] if found else len(WAITS_MOST)

    items.sort(key=place)


class RunOnRanks(Protocol):
    """ranks(world_size, fn, *args) -> what each rank returned."""

    def __call__(self, world_size: int, fn: Callable[..., Any], *args: Any, timeout_s: float = 120.0) -> list[Any]: ...


@pytest.fixture(scope="session")
def ranks() -> RunOnRanks:
    """Run fn(*args) in that many fresh processes and return their return values, in the order of ranks.

    fn is a function at the top of a module under tests/, best one without pytest (tests/parallel/workers.py): each rank
    imports it by name. MASTER_ADDR, RANK and the like are set; fn may initialise the process group, once: a second one
    would read the first one's addresses in torch's store. A failing rank raises RankError here, with
    that rank's traceback.
    """

    def run(world_size: int, fn: Callable[..., Any], *args: Any, timeout_s: float = 120.0) -> list[Any]:
        target = f"{fn.__module__}:{fn.__qualname__}"
        return call_local(target, args, world_size, timeout_s=timeout_s)

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of a few thousand tokens."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))
