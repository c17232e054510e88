"""The callback that looks, before each checkpoint, whether the lock file of the run is still the same one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.lock import LOCK_FILE

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

_HELD, _DELETED, _REPLACED = 0, 1, 2


class LostLockError(ValueError):
    """Another run has taken the folder; the message names it."""


class LockWatch(Callback):
    """Stops a run whose lock file was deleted, since another one could start in its folder.

    If none has, the run writes a checkpoint and stops, and the next start makes a new lock. If another run has, this
    one ends before it writes into the same folder. Rank 0 looks, once for each checkpoint.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LOCK_FILE
        self._before: tuple[int, str] | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        if trainer.groups.rank == 0:
            try:
                self._before = self._look()
            except OSError:  # who calls the Trainer may have no lock
                self._before = None

    def after_step(self, trainer: Trainer, step: Step) -> None:
        """Raise LostLockError, on every rank, if another run has made a new lock file."""
        if not step.save:
            return
        state = torch.tensor(self._state() if trainer.groups.rank == 0 else _HELD)
        dist.broadcast(state, group=trainer.groups.cpu, group_src=0)
        if state == _REPLACED:
            raise LostLockError(
                f"{self._path} was deleted, and another run has taken the folder: {self._holder()}. This one ends at "
                f"step {step.number}, without a further checkpoint. Let one of them train, and do not delete the file"
            )
        if state == _DELETED and not trainer.stop_request.asked:
            trainer.stop_request.asked = True
            text = (
                f"{self._path} was deleted, so that another run could start in the folder: this one writes a "
                "checkpoint and stops. The same command continues, with a new lock"
            )
            trainer.report.event("lock_deleted", step.number, {}, text)

    def _look(self) -> tuple[int, str]:
        """The number of the file, and its holder in words."""
        return self._path.stat().st_ino, self._path.read_text(encoding="utf-8", errors="replace")

    def _state(self) -> int:
        if self._before is None:
            return _HELD
        try:
            now = self._look()
        except FileNotFoundError:
            return _DELETED
        except OSError:  # it is not known now
            return _HELD
        # Some file systems give a file another number after a while: then its holder is the same.
        is_same = now[0] == self._before[0] or now[1] == self._before[1]
        return _HELD if is_same else _REPLACED

    def _holder(self) -> str:
        try:
            return self._look()[1].strip() or "it has not yet named itself"
        except OSError as error:
            return f"its name cannot be read ({error.strerror})"
