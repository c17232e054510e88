"""One trial, from its folder: what its ranks run, and a command that runs it to its end.

    python -m foretrain.scaling.trials.run OUT/trials/NAME

starts the trial, or resumes it from its newest checkpoint, unless it has ended. Exits with 0 if the trial has an
outcome (to diverge is one), with 85 if a signal stopped it, so that the same command resumes it, and with 1 if it
failed.
"""

import os
import sys
from pathlib import Path

from foretrain.launcher import train
from foretrain.launcher.logs import log_path, open_log
from foretrain.scaling.trials.local import LocalRunner
from foretrain.scaling.trials.record import trial_config
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.folder import LOGS
from foretrain.trainer.run.stopping import catch_signals


def rank(folder: str) -> None:
    """Run one rank of the trial in a folder; the launcher calls this in each process. Rank 0 prints into a log too."""
    place = train.place_from_environment()
    if place.rank == 0:
        with open_log(log_path(Path(folder) / LOGS, 0), "rank 0") as log:
            for fd in (1, 2):
                os.dup2(log.fileno(), fd)
    with train.prepared_run(trial_config(Path(folder)), place, allow_data_change=False) as run:
        if run.is_complete:
            return
        if place.rank == 0:
            train.announce(run)
        # Not train.train, which makes a status of some errors: the launcher of the trials shows what a rank raises.
        from foretrain.trainer.run.rank import train_rank

        train_rank(run)


rank.on_start = catch_signals  # type: ignore[attr-defined]


def main(folder: Path) -> int:
    """Run a trial on this machine. Returns the exit status."""
    for ended in LocalRunner().run([folder]):
        if ended.failure is not None:
            print(ended.failure, file=sys.stderr)
            return EXIT_FAILED
        return EXIT_DONE
    return EXIT_RESUME


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
