"""Ending a run in the middle: the signals that ask for it, and the agreement of all ranks on the step."""

import signal
from types import FrameType
from typing import NoReturn

from foretrain.trainer.exit_status import EXIT_RESUME

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""SIGUSR1 is NCCL's."""


class StopRequest:
    """Catches SIGNALS on this rank once it is made. `trainer/telemetry.py` tells every rank of it, at the same step."""

    def __init__(self) -> None:
        self.asked = False
        for signum in SIGNALS:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.asked = True


_request: StopRequest | None = None


def catch_signals() -> StopRequest:
    """This process's StopRequest. Before a rank calls it first, SIGNALS kill the rank."""
    global _request
    if _request is None:
        _request = StopRequest()
    return _request


def leave() -> NoReturn:
    """Exit with EXIT_RESUME once every rank is here: a launcher stops the others when the first one exits."""
    # torch takes seconds to import, and signals are to be caught before that.
    import torch.distributed as dist

    for signum in SIGNALS:
        # And it may do so before this one has closed its files; Python gives its handlers up before it ends.
        signal.signal(signum, signal.SIG_IGN)
    dist.barrier()
    raise SystemExit(EXIT_RESUME)
