"""A callback and a sink from outside the packages."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from foretrain.trainer.callbacks.base import CALLBACKS, Callback, HeldOutLoss, Outcome, Step
from foretrain.trainer.sinks.base import SINKS, Session, Sink
from foretrain.trainer.trainer import Trainer


class LogHooks(Callback):
    """Writes the hooks that are called, a file for each rank, and adds the sum of all ranks' numbers as a metric."""

    name = "log_hooks"

    def __init__(self) -> None:
        self.num_steps_ever = 0

    def _log(self, trainer: Trainer, *words: object) -> None:
        with (trainer.run.run_dir / f"hooks-{trainer.groups.rank}.txt").open("a", encoding="utf-8") as file:
            print(*words, file=file)

    def on_fit_start(self, trainer: Trainer) -> None:
        self._log(trainer, "on_fit_start", self.num_steps_ever)

    def on_step(self, trainer: Trainer, step: Step) -> None:
        ranks = torch.tensor(trainer.groups.rank + 1)
        dist.all_reduce(ranks)
        step.metrics["sum_of_ranks"] = int(ranks)
        step.save = step.number == 2
        if step.number == 5:
            step.stop = "callback"
        self.num_steps_ever += 1
        self._log(trainer, "on_step", step.number)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        self._log(trainer, "after_step", step.number)

    def on_evaluation(self, trainer: Trainer, step: int, loss: HeldOutLoss) -> None:
        self._log(trainer, "on_evaluation", step, loss.total)

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        self._log(trainer, "on_checkpoint", path.name)

    def on_fit_end(self, trainer: Trainer, outcome: Outcome) -> None:
        self._log(trainer, "on_fit_end", outcome.step, outcome.stopped_by)

    def on_close(self, trainer: Trainer) -> None:
        self._log(trainer, "on_close")

    def state(self) -> dict[str, Any]:
        return {"num_steps_ever": self.num_steps_ever}

    def load_state(self, state: dict[str, Any]) -> None:
        self.num_steps_ever = state["num_steps_ever"]


class DiesBesideAnother(Callback):
    """Kills rank 1 of two after the sixth step, as a device that fails there each time."""

    def after_step(self, trainer: Trainer, step: Step) -> None:
        if step.number == 6 and trainer.groups.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class OneFile(Sink):
    """Writes all that it receives into one file of the run folder when it is closed."""

    def open(self, session: Session) -> None:
        self._path = session.run_dir / f"session-from-{session.start_step}.json"
        self._received: list[Any] = []

    def step(self, metrics: Mapping[str, float]) -> None:
        self._received.append(["step", dict(metrics)])

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._received.append(["evaluation", step, loss.total])

    def message(self, text: str) -> None:
        self._received.append(["message", text])

    def close(self) -> None:
        self._path.write_text(json.dumps(self._received))


CALLBACKS.register("log_hooks", LogHooks)
CALLBACKS.register("dies_beside_another", DiesBesideAnother)
SINKS.register("one_file", OneFile)
