"""What runs trials, wherever: each lies in a folder of its own, with its config."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ended:
    """A trial that has come to its end."""

    folder: Path
    why: str | None = None
    """It failed, and this is why; None: it has an outcome, which lies in the folder."""


class Runner(Protocol):
    """Runs the trials of a sweep."""

    goes_on: bool
    """Whether trials run on when the runner is asked to stop, and the next one joins them."""

    def run(self, folders: Sequence[Path]) -> Iterator[Ended]:
        """Run the trials in these folders, in about that order, and yield each when it ends.

        Fewer are yielded where the runner was asked to stop: `stopped_by` then says so. Unless it
        `goes_on`, no trial runs any more when the iterator ends, or is closed.
        """
        ...

    @property
    def stopped_by(self) -> int | None:
        """The signal that asked it to stop."""
        ...
