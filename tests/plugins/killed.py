"""A callback that kills a run, once."""

import json
import os
import signal
import time

from foretrain.trainer.callbacks.base import CALLBACKS, Callback, Step
from foretrain.trainer.trainer import Trainer

KILLED_AFTER = 10


class KilledOnce(Callback):
    """Kills rank 0 with SIGKILL after a step, in the first session that reaches it, and takes time in each step.

    Writes the metrics of each step of rank 0 into `steps.jsonl`, in which no resume removes a line.
    """

    def __init__(self) -> None:
        self._made_s = time.monotonic()

    def on_step(self, trainer: Trainer, step: Step) -> None:
        # A step takes so large a share of the session that each has a line of its own in the ledger.
        time.sleep(0.03 * (time.monotonic() - self._made_s))

    def after_step(self, trainer: Trainer, step: Step) -> None:
        path = trainer.run.run_dir / "steps.jsonl"
        if trainer.groups.rank != 0:
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**step.metrics, "is_first": step.number == trainer.run.start_step + 1}) + "\n")
        if step.number == KILLED_AFTER and path.read_text().count(f'"step": {KILLED_AFTER},') == 1:
            os.kill(os.getpid(), signal.SIGKILL)


CALLBACKS.register("killed_once", KilledOnce)
