"""A callback that stops a rank, once, as a machine that is frozen."""

import os
import signal

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import CALLBACKS, Callback
from foretrain.trainer.trainer import Trainer

STOPPED_IN = 8
"""The step before which the rank stops."""
STOPPED_RANK = 1


class StoppedOnce(Callback):
    """Stops rank 1 with SIGSTOP before a step, in the first session that reaches it; it writes its process id first."""

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        path = trainer.run.run_dir / "stopped"
        if number == STOPPED_IN and trainer.groups.rank == STOPPED_RANK and not path.exists():
            path.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)


CALLBACKS.register("stopped_once", StoppedOnce)
