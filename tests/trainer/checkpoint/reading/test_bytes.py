"""A rank reads the bytes of a checkpoint that it needs, each of them once, and no others."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.reading import counted
from tests.trainer.checkpoint.reading.counted import Load, load_counted, load_with_torch, save_trained
from tests.trainer.checkpoint.reading.expected import counts_of, counts_of_needed, differences

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
Saves = Callable[[str], Path]


def world_size(name: str) -> int:
    return Layout.from_config(LAYOUTS[name]).world_size


@pytest.fixture(scope="module")
def saves(tmp_path_factory: pytest.TempPathFactory, ranks: RunOnRanks) -> Saves:
    """A function that returns a checkpoint of a layout, which it saves once."""

    @cache
    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        checkpoint: Path = ranks(world_size(name), save_trained, counted.config(LAYOUTS[name]), folder)[0]
        return checkpoint

    return save


def check(name: str, checkpoints: list[Path], ranks: RunOnRanks, load: Callable[..., Any] = load_counted) -> None:
    """Check what ranks of a layout read to load each checkpoint."""
    of_ranks = ranks(world_size(name), load, counted.config(LAYOUTS[name]), checkpoints)
    for checkpoint, *loads in zip(checkpoints, *of_ranks, strict=True):
        for rank, each in enumerate(loads):
            assert isinstance(each, Load)
            found, expected = counts_of(checkpoint, each.reads), counts_of_needed(checkpoint, each.needs)
            assert differences(found, expected) == [], f"rank {rank} of {name}"


def test_a_rank_reads_what_it_needs_and_each_byte_once(saves: Saves, ranks: RunOnRanks) -> None:
    check("tp=2", [saves("one process")], ranks)


def test_a_rank_that_reads_complete_tensors_is_found(saves: Saves, ranks: RunOnRanks) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 0 of tp=2.*__0_0.distcp: [1-9][\d,]+ too often, 0 too seldom"):
        check("tp=2", [saves("one process")], ranks, load=load_with_torch)


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
def test_whatever_the_layouts_a_rank_reads_what_it_needs_and_each_byte_once(
    name: str, saves: Saves, ranks: RunOnRanks
) -> None:
    check(name, [saves(source) for source in SOURCES], ranks)
