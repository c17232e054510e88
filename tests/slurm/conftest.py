"""A real Slurm for the tests of this room: one for all of them."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import left_behind, mentions, snapshot, wait_until
from tests.required import not_here
from tests.slurm.cluster.cluster import INSTALL_HINT, Cluster, missing


@pytest.fixture(scope="session")
def installed() -> None:
    """Slurm's programs are there: else the test is skipped, or fails where clusters are required."""
    if missing():
        not_here(f"Slurm is not installed ({', '.join(missing())}): {INSTALL_HINT}")


@pytest.fixture(scope="session")
def slurm(installed: None) -> Iterator[Cluster]:
    """Four nodes of 8 CPUs and 8 simulated GPUs. When the tests are over, nothing of it runs."""
    with short_folder() as folder:
        before = snapshot()
        with Cluster(folder) as cluster:
            yield cluster
        assert left_behind(before, mentions(folder)) == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """As tmp_path, but short enough for a cluster of its own."""
    with short_folder() as folder:
        yield folder


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path has room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def drain(slurm: Cluster) -> Iterator[Callable[[str], object]]:
    """Take nodes out of the cluster, until the test ends."""

    drained: list[str] = []

    def drain(nodes: str) -> object:
        drained.append(nodes)
        return slurm.run("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test")

    yield drain
    for nodes in drained:
        slurm.run("scontrol", "update", f"nodename={nodes}", "state=resume")
    # Else a job of the next test that may have fewer nodes starts on those that are there at this moment.
    wait_until(lambda: {*slurm.run("sinfo", "--noheader", "--Node", "--format=%T").split()} == {"idle"}, "idle nodes")
