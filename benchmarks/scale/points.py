"""What is measured: points on axes. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.train.task import SIZES, TINY, Task
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.parallel.layout import Layout

RANKS, SEQ_LEN, WIDTH, DEPTH, CHECKPOINT, STEPS = "ranks", "sequence length", "width", "depth", "checkpoint", "steps"
BASE_OF_RANKS = "1 rank"
OF_RANKS, OF_SIZE, OF_CHECKPOINT, OF_MEMORY = 1.25, 1.25, 1.25, 1.02
"""The most that a token, a FLOP, a stored byte, and the memory after many steps may cost, as a multiple of the base."""


@dataclass(frozen=True)
class Point:
    """One measurement: a task in a layout."""

    axis: str
    name: str
    task: Task
    layout: tuple[tuple[str, Any], ...] = ()
    """Settings of `parallel`."""
    is_base: bool = False
    """Whether the other points of its axis are compared with it."""
    limit: float | None = None
    """The most that its cost may be, as a multiple of the base's; None: it is shown only."""

    @property
    def num_ranks(self) -> int:
        """Processes that it needs."""
        return Layout.from_config(self.config(Path()).parallel).world_size

    def config(self, folder: Path) -> Config:
        """Its config. Each sample is a micro-batch of its own, so that pipelines have some to fill them."""
        config = self.task.config(folder)
        parallel = ParallelConfig(**{"dp": 1, **dict(self.layout)})
        return replace(config, parallel=parallel, train=replace(config.train, micro_batch_size=1))


@dataclass(frozen=True)
class Sizes:
    """The values on the axes."""

    base: Task
    seq_lens: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    checkpoint_widths: tuple[int, ...]
    """Widths of the models whose checkpoints are written."""
    num_steps: int
    """Steps after which the memory is compared with that after the first ones."""
    first_steps: int = 100


BATCH_SIZE = 8
SMALL = Sizes(
    replace(SIZES["small"], batch_size=BATCH_SIZE),
    seq_lens=(128, 256, 512, 1024),
    widths=(128, 256, 512),
    depths=(2, 4, 8, 16),
    checkpoint_widths=(256, 512, 1024),
    num_steps=2000,
)
SMOKE = Sizes(
    replace(TINY, batch_size=BATCH_SIZE),
    seq_lens=(32, 64),
    widths=(64, 128),
    depths=(2, 4),
    checkpoint_widths=(64, 128),
    num_steps=40,
    first_steps=20,
)
ALL_SIZES = {"small": SMALL, "tiny": SMOKE}
LAYOUTS = {
    "dp=2": {"dp": 2},
    "tp=2": {"tp": 2},
    "tp=2 with sp": {"tp": 2, "sp": True},
    "pp=2": {"pp": 2},
    "dp=4": {"dp": 4},
    "tp=4": {"tp": 4},
    "pp=4": {"pp": 4},
    "dp=2 tp=2": {"dp": 2, "tp": 2},
}
HEAD_DIM = 32


def points(sizes: Sizes, num_cores: int) -> Iterator[Point]:
    """Every point of every axis. Layouts with more ranks than cores have no bar: their ranks share cores."""
    base = sizes.base
    yield Point(RANKS, BASE_OF_RANKS, base, is_base=True)
    for name, layout in LAYOUTS.items():
        point = Point(RANKS, name, base, tuple(layout.items()))
        if point.num_ranks <= 2 * num_cores and base.num_layers >= layout.get("pp", 1):
            yield replace(point, limit=OF_RANKS if point.num_ranks <= num_cores else None)
    for axis, tasks in (
        (SEQ_LEN, {size: with_seq_len(base, size) for size in sizes.seq_lens}),
        (WIDTH, {size: with_width(base, size) for size in sizes.widths}),
        (DEPTH, {size: replace(base, num_layers=size) for size in sizes.depths}),
        (CHECKPOINT, {size: with_width(base, size) for size in sizes.checkpoint_widths}),
    ):
        for number, (size, task) in enumerate(tasks.items()):
            limit = OF_CHECKPOINT if axis == CHECKPOINT else OF_SIZE
            is_last = number == len(tasks) - 1
            yield Point(axis, str(size), task, is_base=number == 0, limit=limit if is_last else None)
    yield Point(STEPS, str(sizes.num_steps), replace(TINY, batch_size=base.batch_size), limit=OF_MEMORY)


def with_seq_len(task: Task, seq_len: int) -> Task:
    """The task with other samples, and as many tokens in a step as it has, where that is possible."""
    return replace(task, seq_len=seq_len, batch_size=max(1, task.tokens_per_step // seq_len))


def with_width(task: Task, width: int) -> Task:
    """The task with another width, with heads of one size."""
    heads = width // HEAD_DIM
    return replace(task, d_model=width, num_heads=heads, num_kv_heads=heads, d_ff=task.d_ff * width // task.d_model)
