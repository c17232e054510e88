"""Fixtures: real Ray clusters of this machine, of which nothing is left."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foretrain.launcher.ray import submission
from tests.launcher.ray.jobs import ROOT
from tests.processes import assert_none
from tests.required import not_here

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NUM_NODES = 3


@dataclass
class RayCluster:
    """A head without CPUs, and NUM_NODES nodes with two each."""

    address: str
    client: "JobSubmissionClient"


@pytest.fixture(scope="session")
def ray_installed() -> None:
    """Skip where Ray is not installed; fail where it has to be."""
    if importlib.util.find_spec("ray") is None:
        not_here("Ray is not installed: pip install 'ray[default]'")


@pytest.fixture(scope="package")
def cluster(ray_installed: None) -> Iterator[RayCluster]:
    """A cluster of its own processes; at the end none of them is left."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are in it
    with ExitStack() as running:
        for number in range(3):  # on a busy machine, a node may need more than the 30 s that Ray allows
            address = running.enter_context(started(folder / str(number)))
            if address:
                break
            running.close()
        assert address, "the cluster did not start"
        with submission.connected(address) as client:
            yield RayCluster(address, client)
    assert_none(folder)
    shutil.rmtree(folder)


@contextmanager
def started(folder: Path) -> Iterator[str]:
    """Start a cluster, and yield its address; an empty one if it did not start."""
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # RAY_TMPDIR: else Ray would announce this cluster to other programs of this machine.
    env |= {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "tests.launcher.ray.program", "cluster", str(folder / "ray"), str(NUM_NODES)]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        try:
            yield program.stdout.readline().strip()
        finally:
            program.stdin.close()
            try:
                program.wait(120)
            finally:
                program.kill()
