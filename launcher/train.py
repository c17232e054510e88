"""`foretrain train`: this process is one rank of a run, or starts all ranks on this machine."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.launcher.local.forkserver import PRELOAD
from foretrain.launcher.local.imports import import_all
from foretrain.launcher.local.run import check_fits, run_local
from foretrain.streams import outlive_readers
from foretrain.trainer.checkpoint.space import check_room
from foretrain.trainer.compilation.machine import check_machine
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.run import owner
from foretrain.trainer.run.description import Description
from foretrain.trainer.run.environment import record
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.folder import CONFIG_FILE, LOGS
from foretrain.trainer.run.lock import locked
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.run.stopping import catch_signals, restarted_after_faults

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 180.0
"""Seconds that a restarted rank 0 waits for the lock of a previous rank 0 whose node died. A server of NFSv4 gives up
such a lock when its lease is over, after 90 seconds by default."""


@dataclass(frozen=True)
class Place:
    """The part of this process in a run."""

    rank: int = 0
    world_size: int | None = None
    """None: this process starts all ranks."""
    local_rank: int = 0
    """Its number among the ranks on this machine."""

    @property
    def is_launcher(self) -> bool:
        """Whether this process starts all ranks."""
        return self.world_size is None


def place_from_environment() -> Place:
    """The place that RANK and WORLD_SIZE give this process; without RANK it is the launcher.

    Raises ValueError if only some of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT are set, or are not
    numbers.
    """
    if "RANK" not in os.environ:
        return Place()
    missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"RANK is set in the environment, but not {', '.join(missing)}: set them as torchrun does to be one rank, "
            "or unset RANK to start all ranks here"
        )
    return Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))


@contextmanager
def prepared_run(config: Config, place: Place, *, allow_data_change: bool) -> Iterator[Run]:
    """Yield the run after all checks, and hold the lock of its folder. Raises ValueError with what to change."""
    if not place.is_launcher:
        catch_signals()  # now, since importing torch takes seconds
    run = prepare_run(
        config,
        place.world_size,
        allow_data_change=allow_data_change,
        progress=place.rank == 0,
        # Every file, on every rank, would be millions of requests to the file system at each start of a large run.
        check_corpus=place.local_rank == 0,
    )
    if place.is_launcher:
        check_fits(run.layout.world_size)
    if run.config.train.compile and not run.is_complete:
        check_machine()  # also here, and not where a run is planned
    if place.rank > 0:
        yield run
        return
    # Here, and not where a run is planned: a job may be planned on a machine that has another disk.
    if not run.is_complete and (warning := check_room(run.run_dir, run.config)):
        logger.warning("%s", warning)
    with locked(run.run_dir, wait_s=0.0 if place.is_launcher else LOCK_WAIT_S):
        if run.checkpoints.newest() != run.own_checkpoint:
            # The previous holder of the lock has written a newer checkpoint than the one that this run resumes from.
            if not place.is_launcher:
                raise SystemExit(EXIT_RESUME)  # every rank must prepare the run again
            run = prepare_run(config, allow_data_change=allow_data_change)
        yield run


def announce(run: Run) -> None:
    """Print what is going to happen, and record the run in its folder. If it is complete, show its end again.

    Raises ValueError if another run has taken the folder of the checkpoints in the meantime.
    """
    print(run.outlook, flush=True)
    if run.has_stopped:
        return
    if not run.is_complete:
        if run.config.train.checkpoint_folder is not None:
            owner.claim(run.run_dir, run.checkpoints.place)
        configs.save(run.config, run.run_dir / CONFIG_FILE)
        record({"parent": run.parent} if run.parent else {}, run.run_dir)
        Description.of(run).write(run.run_dir)
        facts.append(run.run_dir, Fact("process", round(facts.process_start_s(), 3)))
        return
    Description.of(run).write(run.run_dir)  # the version that trained it may have written none
    from foretrain.trainer.run.finish import finish, surviving_faults

    with surviving_faults(run):
        finish(run)


def train(run: Run, place: Place) -> int:
    """Train as this rank, or start all ranks and wait for them. Returns the exit status."""
    if place.is_launcher:
        outlive_readers(lambda reason: None)  # it waits for its ranks, whatever becomes of its terminal
        with restarted_after_faults():  # the logs of its ranks may be on a file system that fails
            return run_local(
                "foretrain.trainer.run.rank:train_rank", (run,), run.layout.world_size, log_dir=run.run_dir / LOGS
            )
    import_all(PRELOAD, will_fork=False)
    from foretrain.trainer.checkpoint.files import SaveError
    from foretrain.trainer.run.rank import train_rank

    try:
        train_rank(run)
    except SaveError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    return EXIT_DONE
