"""Ending a run in the middle: the signals that ask for it, and the agreement of all ranks on the step.

Exit codes: 0 done; EXIT_RESUME "checkpointed, start me again"; EXIT_CONFIG "never start this again"; others failed.
"""

import signal
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from parallel.groups import Groups

EXIT_RESUME = 85
EXIT_CONFIG = 93
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGUSR1 is NCCL's."""


class StopRequest:
    """Catches SIGNALS on this rank; every rank learns of a signal on any of them, at the same step."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._asked = False
        for signum in SIGNALS:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Whether any rank was asked to stop. Every rank must call it, once a step."""
        asked = torch.tensor(int(self._asked), device=self._groups.device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked.item())


def leave() -> NoReturn:
    """Exit with EXIT_RESUME once every rank is here: a launcher stops the others when the first one exits."""
    dist.barrier()
    raise SystemExit(EXIT_RESUME)
