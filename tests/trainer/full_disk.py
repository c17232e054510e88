"""A disk that is full for some steps of a run. Not a test module: each rank imports it."""

import os
from pathlib import Path
from typing import Any

from foretrain.parallel.engine import Engine
from foretrain.trainer.run.rank import train_rank
from tests.trainer.steps import before_each_step


def fill(disk: Path) -> None:
    """Leave no byte free on a disk."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    assert os.statvfs(disk).f_bavail == 0


def train_on_a_full_disk(run: Any, disk: Path, first: int, last: int) -> None:
    """Train. From step `first` to step `last` the disk is full."""

    def fill_or_free(engine: Engine, number: int) -> None:
        if engine.groups.rank == 0 and number == first:
            fill(disk)
        if engine.groups.rank == 0 and number == last + 1:
            (disk / "ballast").unlink()

    before_each_step(fill_or_free)
    train_rank(run)
