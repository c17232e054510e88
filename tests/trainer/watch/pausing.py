"""Ranks of a pipeline that pause before each of their exchanges. Not a test module: each rank imports it."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import schedules

from foretrain.parallel.exchanges import Exchanges, Started
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.pipeline import Pipeline
from foretrain.trainer.watch.analysis import find
from foretrain.trainer.watch.reports import RankReport, file_name
from foretrain.trainer.watch.snapshot import snapshot

WIDTH = 4
ROUND_S = 0.02
PATIENCE_S = 30.0
"""A pause ends after that time if the reports do not show the cause."""


Key = tuple[tuple[str, str, str], int]
"""An exchange: its channel and its number."""


def pause_before_each_exchange(
    layouts: Sequence[tuple[Layout, int]], folder: Path
) -> tuple[set[tuple[Layout, str]], list[str]]:
    """Evaluate and train a step in each layout, with a number of micro-batches, once for each rank, which pauses.

    Returns the kinds of exchanges that the reports named while this rank paused, by layout, and what was wrong in them.
    """
    kinds, problems = set(), []
    for layout, num_microbatches in layouts:
        groups = init_groups(layout, "cpu", timeout_s=120.0)
        exchanges = Exchanges(host_waits=True)
        pipeline = make_pipeline(groups, num_microbatches, exchanges)
        inputs, targets = torch.ones(num_microbatches, WIDTH), torch.zeros(num_microbatches, WIDTH)
        reports = folder / str(layout)
        reports.mkdir(exist_ok=True)
        with reporting(groups, exchanges, reports) as report:
            for rank in range(layout.world_size):
                pauses = Pauses(groups, report, reports) if rank == groups.rank else None
                with pauses.running() if pauses else nothing():
                    pipeline.evaluate(inputs, targets, {})
                    pipeline.step(inputs, targets, {}, scale=1.0)
                dist.barrier()
                if pauses:
                    kinds |= {(layout, what) for what in pauses.kinds}
                    problems += [f"{layout}, rank {rank}, {problem}" for problem in pauses.problems]
    destroy_groups()
    return kinds, problems


def make_pipeline(groups: Groups, num_microbatches: int, exchanges: Exchanges) -> Pipeline:
    stages = [nn.Linear(WIDTH, WIDTH) for _ in groups.layout.stages_of(groups.at.pp)]
    return Pipeline(groups, stages, num_microbatches, squares, lambda parameters: None, exchanges)


def squares(output: Tensor, target: Tensor, scale: float | None) -> Tensor:
    return (output - target).square().sum() * (scale or 1.0)


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def reporting(groups: Groups, exchanges: Exchanges, folder: Path) -> Iterator[Callable[[], RankReport]]:
    """A block in which this rank writes reports of itself, again and again. Yields what makes one."""
    engine: Any = SimpleNamespace(exchanges=exchanges)
    has_ended = threading.Event()

    def report() -> RankReport:
        return snapshot(groups, engine, 1, "step", 1.0, is_late=True)

    def write() -> None:
        while not has_ended.wait(ROUND_S):
            report().write(folder)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield report
    finally:
        has_ended.set()
        thread.join()


class Pauses:
    """The pauses of this rank before its exchanges, each of which ends when the reports of all ranks show the cause."""

    def __init__(self, groups: Groups, report: Callable[[], RankReport], folder: Path) -> None:
        self._rank, self._size = groups.rank, groups.layout.world_size
        self._report, self._folder = report, folder
        self.kinds: set[str] = set()
        self.problems: list[str] = []
        self._named: dict[Key, str] = {}
        """The names of exchanges for which the others were found to wait, until this rank has started them."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which this rank pauses."""
        start, batch = Exchanges.start, schedules._batch_p2p

        def start_later(exchanges: Exchanges, what: str, *args: Any, **kwargs: Any) -> Started:
            if what.startswith("shapes"):  # those of a schedule begin with their batch
                self._pause(f"before {what} {args}")
            started = start(exchanges, what, *args, **kwargs)
            key, own_name = (started.channel.key, started.number), started.channel.named(started.number)
            if self._named.pop(key, own_name) != own_name:
                self.problems.append(f"{own_name} has another name on the other rank")
            return started

        def batch_later(p2p_ops: list[dist.P2POp], *args: Any, **kwargs: Any) -> list[dist.Work]:
            if p2p_ops:
                self._pause(f"before {p2p_ops}")
            return batch(p2p_ops, *args, **kwargs)

        Exchanges.start, schedules._batch_p2p = start_later, batch_later  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Exchanges.start, schedules._batch_p2p = start, batch  # type: ignore[method-assign]
        self.problems += [f"{name} never came" for name in self._named.values()]

    def _pause(self, place: str) -> None:
        ends_s = time.monotonic() + PATIENCE_S
        while problem := self._problem(self._report()):
            if time.monotonic() > ends_s:
                self.problems.append(f"{place}: {problem}")
                return
            threading.Event().wait(ROUND_S)

    def _problem(self, own: RankReport) -> str:
        """What is wrong with what the reports show; nothing if the cause and the exchanges are right."""
        files = {rank: self._folder / file_name(rank) for rank in range(self._size)}
        others = {rank: RankReport.read(file) for rank, file in files.items() if rank != self._rank and file.exists()}
        awaited = self._awaited(own, others)
        if len(others) < self._size - 1 or not awaited:
            return "no rank waits for it"
        for state, reports in (("alive", others | {self._rank: own}), ("silent", others)):
            finding = find(reports, self._size)
            named = {wait.operation for wait in finding.direct(self._rank)}
            named = {each for each in named if not each.startswith("barrier")}  # a rank is at its end already
            if finding.causes != [self._rank] or named != {*awaited.values()}:
                return f"{state}, the causes are {finding.causes}, and it never entered {named}, not {awaited}"
        self._named |= awaited
        self.kinds |= {what for (what, _, _), _ in awaited}
        return ""

    @staticmethod
    def _awaited(own: RankReport, others: Mapping[int, RankReport]) -> dict[Key, str]:
        """The exchanges with this rank for which the hosts of others wait, and that it has not started."""
        started = {channel.key: channel.count for channel in own.channels}
        return {
            (channel.key, channel.awaited): channel.named(channel.awaited)
            for report in others.values()
            for channel in report.channels
            if channel.awaited and channel.peer == own.rank and channel.awaited > started.get(channel.key, 0)
        }
