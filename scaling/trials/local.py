"""Runs trials on this machine, several at a time. They end with this process."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.launcher.local import forkserver
from foretrain.launcher.local.forwarding import Forwarding
from foretrain.launcher.local.outcome import Outcome as RankOutcome
from foretrain.launcher.local.outcome import Raised
from foretrain.launcher.local.pool import Call, CallEnd, RankPool
from foretrain.launcher.local.report import headline
from foretrain.launcher.logs import last_lines, log_path
from foretrain.parallel.layout import Layout
from foretrain.scaling.trials.record import conclude, outcome_of
from foretrain.scaling.trials.runner import TAIL_LINES, TrialEnd, split_ended
from foretrain.trainer.run.exit_status import EXIT_RESUME
from foretrain.trainer.run.folder import LOGS

RANK = "foretrain.scaling.trials.run:rank"
PRELOAD = (
    *forkserver.PRELOAD,
    *("torch.utils.tensorboard", "matplotlib.figure"),
)
"""Further modules that take a rank long to import, and that do not touch a GPU."""

STOP_GRACE_S = 60.0
"""Seconds that trials have to write a checkpoint when they are asked to stop."""
LOOK_EVERY_S = 1.0
LOOK_SHARE = 0.02
"""A trial's curve is read every LOOK_EVERY_S seconds, or less often: reading takes at most this share of the time."""


class LocalRunner:
    """Runs trials on this machine, one in each slot at a time. SIGINT, SIGTERM and SIGUSR2 stop them at a checkpoint.

    A second Ctrl-C raises foretrain.launcher.local.forwarding.Interrupt. Call it from the main thread.
    """

    outlives_stop = False

    def __init__(self, slots: Sequence[Mapping[str, str]] = ({},)) -> None:
        """`slots`: what each slot adds to the environment of its ranks."""
        self._slots = slots
        self.stopped_by: int | None = None

    def run(self, folders: Sequence[Path]) -> Iterator[TrialEnd]:
        """Run the trials in these folders, and yield each when it ends."""
        ended, configs = split_ended(folders)
        yield from ended
        waiting = deque(_call(folder, config) for folder, config in configs.items())
        with Forwarding(STOP_GRACE_S) as forwarding:
            pool = RankPool(self._slots, preload=PRELOAD)
            forwarding.forward_to(pool.send)
            for end in pool.run(waiting, forwarding.stop):
                trial_end = _trial_end(end, configs[end.call.key])
                if trial_end is not None:
                    yield trial_end
                else:
                    waiting.append(end.call)
            self.stopped_by = forwarding.stop.signum


class _DivergenceWatch:
    """Whether a trial that trains has diverged."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder, config
        self._next_look_s = 0.0

    def __call__(self) -> bool:
        started_s = time.monotonic()
        if started_s < self._next_look_s:
            return False
        outcome = outcome_of(self._folder, self._config)
        took_s = time.monotonic() - started_s
        self._next_look_s = time.monotonic() + max(LOOK_EVERY_S, took_s / LOOK_SHARE)
        return outcome is not None and outcome.status == "diverged"


def _call(folder: Path, config: Config) -> Call:
    world_size = Layout.from_config(config.parallel).world_size
    # Rank 0 opens its own log: what it prints would else go where this process prints.
    watch = _DivergenceWatch(folder, config)
    return Call(folder, RANK, (str(folder),), world_size, log_dir=folder / LOGS, end_early=watch)


def _trial_end(end: CallEnd, config: Config) -> TrialEnd | None:
    """The end of a trial; None if it was stopped and is to be resumed."""
    folder, failure = end.call.key, end.failure
    try:
        if conclude(folder, config) is not None:
            return TrialEnd(folder)
    except (ValueError, OSError) as error:
        return TrialEnd(folder, str(error))
    if failure is None:
        return TrialEnd(
            folder, end.error or "the run is complete, and its metrics are not: delete its folder to train it again"
        )
    return None if failure.status == EXIT_RESUME else TrialEnd(folder, _explain(failure, folder))


def _explain(failure: RankOutcome, folder: Path) -> str:
    """How a rank failed, and the last lines of its log, to which its traceback is added."""
    log = log_path(folder / LOGS, failure.rank)
    if isinstance(failure.report, Raised):
        with log.open("a", encoding="utf-8") as file:
            file.write(failure.report.traceback)
    return "\n".join([headline(failure), *last_lines(log, TAIL_LINES)])
