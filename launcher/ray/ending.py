"""One status for a start whose ranks ended in many ways. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

from foretrain.launcher.restart import EXIT_SIGNAL
from foretrain.trainer.exit_status import EXIT_CONFIG, EXIT_DONE, EXIT_RESUME

LOST = EXIT_SIGNAL + SIGKILL
"""The status of a rank that is gone with its actor or its node."""
_FROM_OUTSIDE = (LOST, EXIT_SIGNAL + SIGTERM)


@dataclass(frozen=True)
class End:
    """How a rank ended."""

    rank: int
    status: int
    """128 + n for signal n."""
    words: str = ""
    """What is known beyond the status."""

    @property
    def is_failure(self) -> bool:
        """Whether the other ranks wait for this one in vain."""
        return self.status not in (EXIT_DONE, EXIT_RESUME)


def decisive(ends: Sequence[End]) -> End | None:
    """The end that says how the start ended, of those that came by themselves, in their order; None: all are done.

    A rank that was killed from outside (it, its actor, its node) comes before those that fail since they lost it. One
    that aborts itself (SIGABRT, SIGSEGV) is as good as any other failure: the first one tells.
    """
    for wanted in (
        lambda end: end.status == EXIT_CONFIG,
        lambda end: end.status in _FROM_OUTSIDE,
        lambda end: end.is_failure,
        lambda end: end.status == EXIT_RESUME,
    ):
        for end in ends:
            if wanted(end):
                return end
    return None


def exit_status(status: int, asked: bool) -> int:
    """What the driver exits with once no further start follows one that ended with `status`.

    asked: the driver was told to stop. Ranks that the signal killed, since they had nothing to save yet, stopped too.
    """
    if status in (EXIT_DONE, EXIT_CONFIG):
        return status
    if asked and (status == EXIT_RESUME or status >= EXIT_SIGNAL):
        return EXIT_RESUME
    return 1
