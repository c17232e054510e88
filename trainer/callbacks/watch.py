"""The callback that reports each phase of a run to the watch for hangs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import torch.distributed as dist

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.folder import HANGS
from foretrain.trainer.run.setup import Run
from foretrain.trainer.watch.limits import LOAD, STEP, Limits
from foretrain.trainer.watch.snapshot import snapshot
from foretrain.trainer.watch.watcher import Watcher

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class HangWatch(Callback):
    """Watches each step, and what happens between steps, and ends a run that hangs with a report; see `Watcher`.

    It must be the last callback, and its `first` the first one: between them are the hooks of the others, which may
    take longer than a step.
    """

    def __init__(self) -> None:
        self.first = _Before(self)
        self._watcher: Watcher | None = None
        self._enters_step = True

    def on_fit_start(self, trainer: Trainer) -> None:
        self._watcher = _watcher_of(trainer.run, trainer.groups, trainer.engine)
        self._watcher.start("the start of the session", trainer.run.start_step + 1)

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        self.watcher.enter("the return to a checkpoint", step.number)
        self._enters_step = True

    @property
    def watcher(self) -> Watcher:
        """The watcher of this session, after `on_fit_start`."""
        assert self._watcher is not None
        return self._watcher

    def before_hooks(self) -> None:
        """Called before the other callbacks do their work before a step."""
        if not self._enters_step:
            self.watcher.suspend("work before it (callbacks, a replay)")

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if self._enters_step:
            self.watcher.enter(STEP, number)
            self._enters_step = False
        else:
            self.watcher.resume()

    def end_step(self, number: int) -> None:
        """Called after the step, before the other callbacks do their work."""
        self.watcher.enter("work after it (evaluation, checks, a checkpoint)", number)

    def on_step(self, trainer: Trainer, step: Step) -> None:
        if step.is_last or step.stop is not None:
            # What one rank does at the end, the others do not wait for, and they would count as silent.
            self.watcher.close()

    def after_step(self, trainer: Trainer, step: Step) -> None:
        self.watcher.enter(STEP, step.number + 1)

    def on_close(self, trainer: Trainer) -> None:
        if self._watcher is not None:
            self._watcher.close()


@contextmanager
def watched_load(run: Run, groups: Groups, engine: Engine) -> Iterator[None]:
    """A block in which all ranks read a checkpoint together, and which is watched as a step is.

    A rank that still reads when it is late is named, and the run continues: the disk may be slow.
    """
    if groups.layout.world_size == 1 or not run.config.parallel.hang_s:
        yield
        return
    watcher = _watcher_of(run, groups, engine)
    watcher.start(LOAD, run.start_step)
    try:
        yield
    finally:
        watcher.close()


class _Before(Callback):
    """The hooks of a HangWatch that come before those of all other callbacks."""

    def __init__(self, watch: HangWatch) -> None:
        self._watch = watch

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        self._watch.before_hooks()

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self._watch.end_step(step.number)


def _watcher_of(run: Run, groups: Groups, engine: Engine) -> Watcher:
    """A watcher of this rank, of a new session. Every rank must make one."""
    hosts, session = _hosts_and_session(groups)
    limits = Limits(run.config.parallel.hang_s, run.config.parallel.timeout_s)
    return Watcher(run.run_dir / HANGS / session, groups.rank, hosts, limits, partial(snapshot, groups, engine))


def _hosts_and_session(groups: Groups) -> tuple[list[str], str]:
    """The host of each rank, and a name for this session that all ranks agree on: when it started, UTC."""
    found: list[tuple[str, str]] = [("", "")] * groups.layout.world_size
    mine = (socket.gethostname(), datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    dist.all_gather_object(found, mine, group=groups.cpu)
    return [host for host, _ in found], found[0][1]
