"""Ranks of one machine read each byte of a checkpoint on a server once, and fail together."""

import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from foretrain.faults import PassingError, is_passing
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.manifest import METADATA
from foretrain.trainer.checkpoint.reading.node import Node
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.made import damage
from tests.trainer.checkpoint.reading import counted
from tests.trainer.checkpoint.reading.conftest import LAYOUTS, SOURCES, Saves, world_size
from tests.trainer.checkpoint.reading.counted import (
    Load,
    load_alone,
    load_damaged,
    load_shared,
    load_what_one_rank_may_not_read,
)
from tests.trainer.checkpoint.reading.expected import counts_of, counts_of_needed, differences


def check(
    name: str,
    checkpoints: list[Path],
    ranks: RunOnRanks,
    load: Callable[..., Any] = load_shared,
    hosts: Sequence[str] = (),
) -> None:
    """Check what the ranks of each machine read together to load each checkpoint."""
    arguments = (counted.config(LAYOUTS[name]), checkpoints, *([hosts] if hosts else []))
    of_ranks: list[list[Load]] = ranks(world_size(name), load, *arguments)
    for checkpoint, *loads in zip(checkpoints, *of_ranks, strict=True):
        for host in dict.fromkeys(hosts or [""]):
            here = [each for rank, each in enumerate(loads) if not hosts or hosts[rank] == host]
            found = counts_of(checkpoint, (read for each in here for read in each.reads))
            expected = counts_of_needed(checkpoint, [need for each in here for need in each.needs])
            assert differences(found, expected) == [], f"machine {host} of {name}"
        for rank, each in enumerate(loads):
            found, expected = counts_of(checkpoint, each.reads), counts_of_needed(checkpoint, each.needs)
            assert all((found[file] <= expected[file]).all() for file in found), f"rank {rank} of {name}"


def test_ranks_of_a_machine_read_each_byte_that_one_of_them_needs_once(saves: Saves, ranks: RunOnRanks) -> None:
    check("dp=2 zero 0", [saves("one process")], ranks)


def test_ranks_that_read_for_themselves_are_found(saves: Saves, ranks: RunOnRanks) -> None:
    with pytest.raises(AssertionError, match=r"machine  of dp=2 zero 0"):
        check("dp=2 zero 0", [saves("one process")], ranks, load=load_alone)


@pytest.mark.long
@pytest.mark.parametrize("name", ["dp=2 zero 0", "tp=2", "dp=2 tp=2", "dp=4 zero 3"])
def test_whatever_the_layouts_ranks_of_a_machine_read_each_byte_once(
    name: str, saves: Saves, ranks: RunOnRanks
) -> None:
    check(name, [saves(source) for source in SOURCES], ranks)


@pytest.mark.long
def test_each_machine_reads_what_its_ranks_need(saves: Saves, ranks: RunOnRanks) -> None:
    check("dp=4 zero 3", [saves("one process"), saves("tp=2")], ranks, hosts=["a", "b", "a", "a"])


def test_all_ranks_name_the_bytes_that_are_damaged_whoever_has_read_them(
    saves: Saves, ranks: RunOnRanks, tmp_path: Path
) -> None:
    """Both ranks need all of the file, and each reads some blocks. After the damage a sound checkpoint is loaded."""
    sound = saves("one process")
    places = {"__0_0.distcp": (10, 5_000_000, 9_000_000), METADATA: (5000,)}
    damaged: list[Path] = []
    for file, place in ((file, place) for file, places_in in places.items() for place in places_in):
        damaged.append(shutil.copytree(sound, tmp_path / f"{len(damaged)}"))
        damage(damaged[-1] / file, place)
    of_ranks = ranks(2, load_damaged, counted.config(LAYOUTS["dp=2 zero 0"]), [*damaged, sound])
    assert of_ranks[0] == of_ranks[1]
    for path, text, block in zip(damaged, of_ranks[0], (0, 4, 8, 0), strict=False):
        assert f"file://{path}/" in text and f"bytes {block * 2**20:,} to" in text
    assert of_ranks[0][-1] == ""


@pytest.mark.parametrize(("rank", "file"), [(0, METADATA), (1, "__0_0.distcp")])
def test_what_one_rank_cannot_read_is_an_error_and_no_damage_on_all_of_them(
    rank: int, file: str, saves: Saves, ranks: RunOnRanks
) -> None:
    settings = counted.config(LAYOUTS["dp=2 zero 0"])
    errors = ranks(2, load_what_one_rank_may_not_read, settings, saves("one process"), rank, file)
    assert errors[rank].startswith("PermissionError") and errors[1 - rank].startswith("OSError")
    assert all("you may not read this" in each and file in each for each in errors)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "the disk is gone"), PassingError),
        (PermissionError(errno.EACCES, "you may not read this"), OSError),
        (FileNotFoundError(errno.ENOENT, "a file is missing"), DamagedError),
    ],
)
def test_the_error_of_one_rank_is_of_the_same_kind_on_the_others(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def gather(self: Node, value: object) -> list[Any]:
        sent.append(value)
        return sent

    monkeypatch.setattr(Node, "gather", gather)
    for raised, expected in ((error, type(error)), (None, kind)):
        with pytest.raises(expected) as found:
            Node().raise_first(raised)
        assert type(found.value) is expected and is_passing(found.value) == is_passing(error)
