"""Ending a run in the middle: the signals that ask for it, and the agreement of all ranks on the step.

Exit codes: 0 done; EXIT_RESUME "checkpointed, start me again"; EXIT_CONFIG "never start this again"; others failed.
"""

import signal
from types import FrameType
from typing import NoReturn

import torch.distributed as dist

EXIT_RESUME = 85
EXIT_CONFIG = 93
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGUSR1 is NCCL's."""


class StopRequest:
    """Catches SIGNALS on this rank. `trainer.telemetry` tells every rank of it, at the same step."""

    def __init__(self) -> None:
        self.asked = False
        for signum in SIGNALS:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True


def leave() -> NoReturn:
    """Exit with EXIT_RESUME once every rank is here: a launcher stops the others when the first one exits."""
    dist.barrier()
    raise SystemExit(EXIT_RESUME)
