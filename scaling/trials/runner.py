"""What every runner of trials promises, wherever they run. Each trial is a folder that holds its config."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foretrain.configs.schema import Config
from foretrain.scaling.trials.record import conclude, recorded, trial_config

TAIL_LINES = 15
"""Lines of its log that are shown of a trial that failed."""


@dataclass(frozen=True)
class TrialEnd:
    """The end of a trial."""

    folder: Path
    failure: str | None = None
    """Why it failed; None: its folder holds its outcome."""


class Runner(Protocol):
    """Runs the trials of a study."""

    outlives_stop: bool
    """Whether trials continue when the runner is asked to stop, so that the next runner joins them."""

    def run(self, folders: Sequence[Path]) -> Iterator[TrialEnd]:
        """Run the trials in these folders, in about that order, and yield each when it ends.

        If the runner is asked to stop, it yields fewer, and `stopped_by` says why. Unless it
        `outlives_stop`, no trial runs any more when the iterator ends or is closed.
        """
        ...

    @property
    def stopped_by(self) -> int | None:
        """The signal that asked the runner to stop."""
        ...


def split_ended(folders: Sequence[Path]) -> tuple[list[TrialEnd], dict[Path, Config]]:
    """The trials that have ended already, and the configs of the others by folder."""
    ended: list[TrialEnd] = []
    waiting: dict[Path, Config] = {}
    for folder in folders:
        try:
            config = trial_config(folder)
            if recorded(folder) or conclude(folder, config):
                ended.append(TrialEnd(folder))
            else:
                waiting[folder] = config
        except (ValueError, OSError) as error:
            ended.append(TrialEnd(folder, str(error)))
    return ended, waiting
