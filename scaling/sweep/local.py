"""Trials on this machine, several at a time: their ranks are forked from one warm process, and end with this one."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import connection
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.launcher.local import forkserver
from foretrain.launcher.local.forwarding import Forwarding
from foretrain.launcher.local.outcome import Outcome as RankOutcome
from foretrain.launcher.local.outcome import Raised
from foretrain.launcher.local.ranks import started
from foretrain.launcher.local.report import first_failure, headline
from foretrain.launcher.logs import LOG_START, log_path
from foretrain.parallel.layout import Layout
from foretrain.scaling.sweep.record import conclude, outcome_of, recorded, trial_config
from foretrain.scaling.sweep.runner import Ended
from foretrain.trainer.exit_status import EXIT_RESUME
from foretrain.trainer.run_folder import LOGS

RANK = "foretrain.scaling.sweep.trial:rank"
PRELOAD = (
    *forkserver.PRELOAD,
    *("torch.distributed.checkpoint", "torch.distributed.pipelining", "torch.utils.tensorboard", "matplotlib.figure"),
)
"""What else a rank imports at length, and what leaves GPUs alone."""

STOP_GRACE_S = 60.0
"""So long trials that are asked to stop have to write a checkpoint."""
SETTLE_S = 1.0
"""A rank that fails because another died may be heard of first: so long we wait for the cause."""
POLL_S = 0.5
LOOK_S = 1.0
"""Between two looks at a curve, and more where it is long:"""
LOOK_SHARE = 0.02
"""of the time, at most, a trial is looked at."""
TAIL_LINES = 15


class Local:
    """Runs trials on this machine, `jobs` at a time. SIGINT, SIGTERM and SIGUSR2 stop them at a checkpoint.

    A second Ctrl-C raises foretrain.launcher.local.forwarding.Interrupt. Needs the main thread.
    """

    goes_on = False

    def __init__(self, jobs: int, env: Sequence[Mapping[str, str]] = ({},)) -> None:
        """`env` is added to the environment of ranks, by the trial's place among those that run, over and over."""
        self._jobs = jobs
        self._env = env
        self._running: dict[int, _Running] = {}
        """By place: 0 to jobs - 1."""
        self.stopped_by: int | None = None

    def run(self, folders: Sequence[Path]) -> Iterator[Ended]:
        """Run the trials in these folders, and yield each when it ends."""
        waiting = deque(folders)
        with Forwarding(STOP_GRACE_S) as forwarding, ExitStack() as until_done:
            until_done.callback(self._end_all)
            forwarding.to(self)  # type: ignore[arg-type]  # all it does is to send
            stop = forwarding.stop
            while self._running or (waiting and stop.signum is None):
                if waiting and stop.signum is None and len(self._running) < self._jobs:
                    yield from self._start(waiting.popleft())
                    continue
                self._wait()
                for trial in self._ended():
                    ended = trial.ended()
                    if ended is not None:
                        yield ended
                    else:
                        waiting.append(trial.folder)
                self.stopped_by = stop.signum
                if time.monotonic() > stop.deadline_s:
                    break

    def send(self, signum: int) -> None:
        """Send a signal to the ranks of all trials."""
        for trial in list(self._running.values()):
            trial.ranks.send(signum)

    def _start(self, folder: Path) -> Iterator[Ended]:
        """Start a trial, or yield its end where it has come to one, or cannot start."""
        try:
            config = trial_config(folder)
            if recorded(folder) or conclude(folder, config):
                yield Ended(folder)
                return
            place = min({*range(self._jobs)} - self._running.keys())
            self._running[place] = _Running(folder, config, self._env[place % len(self._env)])
        except (RuntimeError, ValueError, OSError) as error:
            yield Ended(folder, str(error))

    def _wait(self) -> None:
        """Until the process of some rank ends, or half a second has passed."""
        ranks = (trial.ranks for trial in self._running.values())
        connection.wait([each.processes[rank].sentinel for each in ranks for rank in each.running], timeout=POLL_S)

    def _ended(self) -> Iterator["_Running"]:
        for place, trial in list(self._running.items()):
            if trial.is_over():
                trial.close()
                del self._running[place]
                yield trial

    def _end_all(self) -> None:
        for trial in self._running.values():
            trial.close()
        self._running.clear()


class _Running:
    """A trial whose ranks run."""

    def __init__(self, folder: Path, config: Config, env: Mapping[str, str]) -> None:
        self.folder = folder
        self._config = config
        self._until_over = ExitStack()
        layout = Layout.from_config(config.parallel)
        # Its own log for rank 0 is opened by that rank: what it prints here would be everybody's.
        ranks = started(RANK, (str(folder),), layout.world_size, env=env, log_dir=folder / LOGS, preload=PRELOAD)
        self.ranks = self._until_over.enter_context(ranks)
        self._settled_s = float("inf")
        self._next_look_s = 0.0

    def is_over(self) -> bool:
        """Whether its ranks have ended, have failed, or train on although the trial has diverged."""
        self.ranks.poll(0)
        failure = first_failure(self.ranks.outcomes.values())
        if failure is not None and failure.status != EXIT_RESUME:
            self._settled_s = min(self._settled_s, time.monotonic() + SETTLE_S)
        return not self.ranks.running or time.monotonic() > self._settled_s or self._has_diverged()

    def ended(self) -> Ended | None:
        """The end that it has come to; None where it was stopped, to go on later."""
        failure = first_failure(self.ranks.outcomes.values())
        try:
            if conclude(self.folder, self._config) is not None:
                return Ended(self.folder)
        except (ValueError, OSError) as error:
            return Ended(self.folder, str(error))
        if failure is None:
            return Ended(self.folder, "the run is complete, and its record is not: delete its folder to train it again")
        return None if failure.status == EXIT_RESUME else Ended(self.folder, _told(failure, self.folder))

    def close(self) -> None:
        """End what still runs."""
        self._until_over.close()

    def _has_diverged(self) -> bool:
        started_s = time.monotonic()
        if started_s < self._next_look_s:
            return False
        outcome = outcome_of(self.folder, self._config)
        took_s = time.monotonic() - started_s
        self._next_look_s = time.monotonic() + max(LOOK_S, took_s / LOOK_SHARE)
        return outcome is not None and outcome.status == "diverged"


def _told(failure: RankOutcome, folder: Path) -> str:
    """How a rank failed, and the last lines of what explains it; a traceback is kept in the rank's log."""
    log = log_path(folder / LOGS, failure.rank)
    if isinstance(failure.report, Raised):
        with log.open("a", encoding="utf-8") as file:
            file.write(failure.report.traceback)
    said = log.read_text(encoding="utf-8", errors="replace").rpartition(LOG_START)[2].splitlines()[1:]
    return "\n".join([headline(failure), f"The last lines of {log}:", *said[-TAIL_LINES:]])
