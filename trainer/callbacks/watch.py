"""The callback that reports each phase of a run to the watch for hangs."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import torch.distributed as dist

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.folder import HANGS
from foretrain.trainer.watch.limits import STEP, Limits
from foretrain.trainer.watch.snapshot import snapshot
from foretrain.trainer.watch.watcher import Watcher

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class HangWatch(Callback):
    """Watches each step, and what follows it, and ends a run that hangs with a report; see `Watcher`.

    It must be the last callback: then its hooks are called when a step is done, and when all that follows it is done.
    """

    def __init__(self) -> None:
        self._watcher: Watcher | None = None
        self._goes_back = False

    def on_fit_start(self, trainer: Trainer) -> None:
        run, groups = trainer.run, trainer.groups
        hosts, session = _hosts_and_session(groups)
        limits = Limits(run.config.parallel.hang_s, run.config.parallel.timeout_s)
        folder = run.run_dir / HANGS / session
        report = partial(snapshot, groups, trainer.engine)
        self._watcher = Watcher(folder, groups.rank, hosts, limits, report)
        self._watcher.start(STEP, run.start_step + 1)

    def on_rollback(self, trainer: Trainer, step: Step) -> None:
        assert self._watcher is not None
        self._watcher.enter("the return to a checkpoint", step.number)
        self._goes_back = True

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if self._goes_back:
            assert self._watcher is not None
            self._watcher.enter(STEP, number)
            self._goes_back = False

    def on_step(self, trainer: Trainer, step: Step) -> None:
        assert self._watcher is not None
        if step.is_last or step.stop is not None:
            # What one rank does at the end, the others do not wait for, and they would count as silent.
            self._watcher.close()
        self._watcher.enter("work after it (evaluation, checks, a checkpoint)", step.number)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        assert self._watcher is not None
        self._watcher.enter(STEP, step.number + 1)

    def on_close(self, trainer: Trainer) -> None:
        if self._watcher is not None:
            self._watcher.close()


def _hosts_and_session(groups: Groups) -> tuple[list[str], str]:
    """The host of each rank, and a name for this session that all ranks agree on: when it started, UTC."""
    found: list[tuple[str, str]] = [("", "")] * groups.layout.world_size
    mine = (socket.gethostname(), datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
    dist.all_gather_object(found, mine, group=groups.cpu)
    return [host for host, _ in found], found[0][1]
