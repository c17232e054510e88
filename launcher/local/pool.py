"""Runs many calls on this machine, several at a time: each on its own ranks, forked from one warm process."""

import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from foretrain.launcher.local import forkserver
from foretrain.launcher.local.forwarding import Stop
from foretrain.launcher.local.outcome import Outcome, Returned
from foretrain.launcher.local.ranks import started
from foretrain.launcher.local.report import first_failure, headline
from foretrain.trainer.run.exit_status import EXIT_RESUME

SETTLE_S = 1.0
"""Seconds between the first failure of a rank and the end of the others: the cause may be seen after its effects."""
POLL_S = 0.5


@dataclass(frozen=True)
class Call:
    """A function to run on several ranks."""

    key: Any
    """Names the call for its owner."""
    target: str
    """The function, "package.module:function"; each rank imports it by name."""
    args: tuple
    world_size: int = 1
    log_dir: Path | None = None
    """Folder of the logs of all ranks but rank 0; None: they print where this process prints."""
    keep_result: bool = False
    """Whether `CallEnd.values` is needed. What the function returns must be picklable then."""
    timeout_s: float = float("inf")
    end_early: Callable[[], bool] = lambda: False
    """Asked at every look at the ranks: if it returns True, they are killed."""


@dataclass(frozen=True)
class CallEnd:
    """How a call ended. No rank of it runs any more."""

    call: Call
    outcomes: Mapping[int, Outcome]
    """The outcomes of the ranks that ended by themselves."""
    wall_s: float
    error: str | None = None
    """Why the call could not start."""

    @property
    def failure(self) -> Outcome | None:
        """The failure that most likely caused the others; None if no rank failed."""
        return first_failure(self.outcomes.values())

    @property
    def problem(self) -> str | None:
        """One line that says why the call returned nothing; None if every rank returned."""
        killed = [rank for rank in range(self.call.world_size) if rank not in self.outcomes]
        if self.error is not None or self.failure is not None:
            return self.error if self.failure is None else headline(self.failure)
        return f"ranks {killed} still ran after {self.wall_s:.0f} s and were killed" if killed else None

    def values(self) -> list[Any]:
        """What each rank returned, in order of ranks."""
        reports = [self.outcomes[rank].report for rank in range(self.call.world_size)]
        return [pickle.loads(r.value) for r in reports if isinstance(r, Returned) and r.value is not None]


class RankPool:
    """Runs calls, one in each slot at a time. When `run` ends, or is closed, none of their ranks runs any more."""

    def __init__(self, slots: Sequence[Mapping[str, str]], *, preload: Sequence[str] = forkserver.PRELOAD) -> None:
        """`slots`: what each slot adds to the environment of its ranks; see `slots.local_slots`."""
        self._slots = slots
        self._preload = preload
        self._running: dict[int, _Running] = {}
        """By the number of the slot."""

    def run(
        self, waiting: deque[Call], stop: Stop | None = None, on_start: Callable[[Call], None] = lambda call: None
    ) -> Generator[CallEnd, None, None]:
        """Run the calls that wait, in about that order, and yield each when it ends; more may be appended meanwhile.

        If `stop` holds a signal, no further call starts, and calls that run have until its deadline. Calls that are
        killed at the deadline are not yielded.
        """
        stop = stop or Stop()
        try:
            while self._running or (waiting and stop.signum is None):
                if waiting and stop.signum is None and len(self._running) < len(self._slots):
                    on_start(waiting[0])
                    yield from self._start(waiting.popleft())
                    continue
                self._wait()
                for slot, each in list(self._running.items()):
                    if each.is_over():
                        each.kill()
                        del self._running[slot]
                        yield each.end()
                if time.monotonic() > stop.deadline_s:
                    break
        finally:
            for each in self._running.values():
                each.kill()
            self._running.clear()

    def send(self, signum: int) -> None:
        """Send a signal to the ranks of all calls."""
        for each in list(self._running.values()):
            each.ranks.send(signum)

    def _start(self, call: Call) -> Iterator[CallEnd]:
        """Start a call in a free slot, or yield its end if it cannot start."""
        slot = min({*range(len(self._slots))} - self._running.keys())
        try:
            self._running[slot] = _Running(call, self._slots[slot], self._preload)
        except (RuntimeError, ValueError, OSError) as error:
            yield CallEnd(call, {}, 0.0, str(error))

    def _wait(self) -> None:
        """Wait until the process of any rank ends, at most POLL_S."""
        ranks = (each.ranks for each in self._running.values())
        connection.wait([each.processes[rank].sentinel for each in ranks for rank in each.running], timeout=POLL_S)


class _Running:
    """A call whose ranks run."""

    def __init__(self, call: Call, env: Mapping[str, str], preload: Sequence[str]) -> None:
        self.call = call
        self._started_s = time.monotonic()
        self._deadline_s = self._started_s + call.timeout_s
        self._until_over = ExitStack()
        options = {"env": env, "log_dir": call.log_dir, "preload": preload, "keep_result": call.keep_result}
        ranks = started(call.target, call.args, call.world_size, **options)  # type: ignore[arg-type]
        self.ranks = self._until_over.enter_context(ranks)

    def is_over(self) -> bool:
        """Whether all ranks have ended, or the others are to be killed."""
        self.ranks.poll(0)
        failure = first_failure(self.ranks.outcomes.values())
        if failure is not None and failure.status != EXIT_RESUME:
            self._deadline_s = min(self._deadline_s, time.monotonic() + SETTLE_S)
        return not self.ranks.running or time.monotonic() > self._deadline_s or self.call.end_early()

    def kill(self) -> None:
        """End the ranks that still run."""
        self._outcomes = dict(self.ranks.outcomes)
        self._until_over.close()

    def end(self) -> CallEnd:
        """How the call ended; after `kill`."""
        return CallEnd(self.call, self._outcomes, time.monotonic() - self._started_s)
