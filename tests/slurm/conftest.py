"""A real Slurm for the tests of this room: one for all of them."""

import os
from collections.abc import Iterator

import pytest

from slurm.cluster import INSTALL_HINT, Cluster, missing
from tests.processes import left_behind, mentions, snapshot


@pytest.fixture(scope="session")
def installed() -> None:
    """Slurm's programs are there: else the test is skipped, or fails where clusters are required."""
    if missing():
        told = f"Slurm is not installed ({', '.join(missing())}): {INSTALL_HINT}"
        if os.environ.get("CI") or os.environ.get("FORETRAIN_REQUIRE_CLUSTERS"):
            pytest.fail(told)
        pytest.skip(told)


@pytest.fixture(scope="session")
def slurm(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of 8 CPUs and 8 simulated GPUs. When the tests are over, nothing of it runs."""
    folder = tmp_path_factory.mktemp("slurm")
    before = snapshot()
    with Cluster(folder) as cluster:
        yield cluster
    assert left_behind(before, mentions(folder)) == []
