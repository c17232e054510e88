"""The exit status of a start whose ranks ended in different ways. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

from foretrain.launcher.restart import EXIT_SIGNAL
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_DONE, EXIT_HANG, EXIT_RESUME

LOST = EXIT_SIGNAL + SIGKILL
"""The exit status of a rank that was lost with its actor or its node."""
_CUT_SHORT = (LOST, EXIT_SIGNAL + SIGTERM, EXIT_HANG)


@dataclass(frozen=True)
class End:
    """How a rank ended."""

    rank: int
    status: int
    """128 + n for signal n."""
    words: str = ""
    """What is known besides the status."""

    @property
    def is_failure(self) -> bool:
        """Whether the other ranks cannot continue without this one."""
        return self.status not in (EXIT_DONE, EXIT_RESUME)


def decisive(ends: Sequence[End]) -> End | None:
    """The end that decides how the start ended, out of the ends in their order; None: all ranks are done.

    A rank that was killed from outside (it, its actor, or its node), or that ended because the run hung, comes before
    those that failed because they lost it. A rank that aborts itself (SIGABRT, SIGSEGV) counts as any other failure:
    the first one decides.
    """
    for wanted in (
        lambda end: end.status == EXIT_CONFIG,
        lambda end: end.status in _CUT_SHORT,
        lambda end: end.is_failure,
        lambda end: end.status == EXIT_RESUME,
    ):
        for end in ends:
            if wanted(end):
                return end
    return None


def exit_status(status: int, asked: bool) -> int:
    """The exit status of the driver if the last start ended with `status`.

    asked: the driver was asked to stop. Then ranks that the signal killed, because they had nothing to save yet, also
    count as stopped.
    """
    if status in (EXIT_DONE, EXIT_CONFIG):
        return status
    if asked and (status == EXIT_RESUME or status >= EXIT_SIGNAL):
        return EXIT_RESUME
    return 1
