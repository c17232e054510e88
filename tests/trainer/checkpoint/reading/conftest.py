"""Checkpoints of several layouts, each saved once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.reading import counted
from tests.trainer.checkpoint.reading.counted import save_trained

LAYOUTS = {
    "one process": ParallelConfig(),
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=4 zero 3": ParallelConfig(dp=4, zero_stage=3),
    "tp=2": ParallelConfig(tp=2, sp=True),
    "pp=2": ParallelConfig(pp=2),
    "dp=2 tp=2": ParallelConfig(dp=2, tp=2),
}
SOURCES = ("one process", "dp=2 zero 0", "dp=4 zero 3", "tp=2")
"""Layouts whose checkpoints are loaded."""
Saves = Callable[[str], Path]


def world_size(name: str) -> int:
    """Ranks of a layout."""
    return Layout.from_config(LAYOUTS[name]).world_size


@pytest.fixture(scope="session")
def saves(tmp_path_factory: pytest.TempPathFactory, ranks: RunOnRanks) -> Saves:
    """A function that returns a checkpoint of a layout, which it saves once."""

    @cache
    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        checkpoint: Path = ranks(world_size(name), save_trained, counted.config(LAYOUTS[name]), folder)[0]
        return checkpoint

    return save
