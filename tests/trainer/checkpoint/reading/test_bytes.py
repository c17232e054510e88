"""A rank reads the bytes of a checkpoint that it needs, each of them once, and no others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.reading import counted
from tests.trainer.checkpoint.reading.conftest import LAYOUTS, SOURCES, Saves, world_size
from tests.trainer.checkpoint.reading.counted import Load, load_counted, load_with_torch
from tests.trainer.checkpoint.reading.expected import counts_of, counts_of_needed, differences


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
@pytest.mark.parametrize("name", ["dp=2", "tp=2", "pp=2", "dp=2 tp=2", "dp=4 zero 3"])
def test_whatever_the_layouts_a_rank_reads_what_it_needs_and_each_byte_once(
    name: str, saves: Saves, ranks: RunOnRanks
) -> None:
    check(name, [saves(source) for source in SOURCES], ranks)
