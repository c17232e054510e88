"""Supervises the ranks of one start until none is left, and decides how the start ended."""

import math
import signal
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from foretrain.launcher.ray.agent import Process
from foretrain.launcher.ray.ending import LOST, End, decisive
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.stop_signals import FORWARDED, StopSignals
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_RESUME

_POLL_S = 0.5
SETTLE_S = 2.0
"""Seconds after the first failure in which others count: the cause may be noticed after its victims."""
TERM_GRACE_S = 5.0
RESUME_GRACE_S = 60.0
"""Seconds between the ends of ranks that write a checkpoint together."""
KILL_GRACE_S = 45.0
"""Seconds until a rank that SIGKILL does not end counts as lost with its node; Ray notices that after half a minute."""


class Ranks:
    """The ranks that run, each in its actor, and the ends of the others."""

    def __init__(self, agents: Sequence[Any], processes: Sequence[Process]) -> None:
        """agents: the actor of each process."""
        self._agents = agents
        self._running = {
            agent.run.remote(process): rank for rank, (agent, process) in enumerate(zip(agents, processes, strict=True))
        }
        self.ends: list[End] = []

    @property
    def running(self) -> list[int]:
        """Ranks whose end is not known yet."""
        return [*self._running.values()]

    def poll(self, timeout_s: float) -> list[End]:
        """Wait at most `timeout_s` seconds for a rank to end, and return the new ends."""
        if not ray.wait([*self._running], num_returns=1, timeout=timeout_s)[0]:
            return []
        ended, _ = ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        new = [end_of(self._running.pop(reference), reference) for reference in ended]
        self.ends += new
        return new

    def wait(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds until all have ended; return whether they have."""
        deadline_s = time.monotonic() + timeout_s
        while self._running and (left_s := deadline_s - time.monotonic()) > 0:
            self.poll(min(left_s, _POLL_S))
        return not self._running

    def send(self, signum: int) -> None:
        """Send a signal to all ranks that run."""
        for rank in self.running:
            self._agents[rank].signal.remote(signum)

    def stop(self, term_grace_s: float) -> list[End]:
        """End all ranks that run, and return those that were lost with their actor."""
        num_before = len(self.ends)
        if self._running and term_grace_s:
            self.send(signal.SIGTERM)
            self.wait(term_grace_s)
        self.send(signal.SIGKILL)
        if not self.wait(KILL_GRACE_S):
            self.ends += [End(rank, LOST, "its node does not answer") for rank in self.running]
        return [end for end in self.ends[num_before:] if end.words and end.status == LOST]


def end_of(rank: int, reference: Any) -> End:
    """The end of a rank, from the reference to a call of `Agent.run` that has returned or is lost."""
    try:
        return End(rank, ray.get(reference))
    except (ActorDiedError, ActorUnavailableError) as error:
        first_line = str(error).strip().partition("\n")[0]
        return End(rank, LOST, f"its actor is gone: {first_line}")
    except RayError as error:
        return End(rank, 1, f"its actor failed: {error}")


def supervise(ranks: Ranks, stop_signals: StopSignals, stop_grace_s: float) -> int:
    """Wait until no rank is left, forward the signals of the driver, and return the exit status of the start.

    The first failure ends the other ranks.
    """
    failed = _until_a_failure(ranks, stop_signals, stop_grace_s)
    if failed is not None and ranks.running:
        say(f"{_described(failed)}: stops the others")
        ranks.wait(SETTLE_S)
    counted = [*ranks.ends]
    cut_short = bool(ranks.running)
    counted += ranks.stop(TERM_GRACE_S if failed is not None else 0.0)
    end = decisive(counted)
    if end is None:
        return EXIT_RESUME if cut_short else EXIT_DONE
    if end.is_failure:
        say(_described(end))
    return end.status


def _until_a_failure(ranks: Ranks, stop_signals: StopSignals, stop_grace_s: float) -> End | None:
    """Wait until a rank fails, and return its end; or until all have ended or took too long to stop: None."""
    deadline_s = math.inf
    while ranks.running and time.monotonic() < deadline_s:
        new = ranks.poll(_POLL_S)
        for signum in stop_signals.take():
            say(f"{signum.name}: waits up to {stop_grace_s:g} s for the ranks to write a checkpoint")
            ranks.send(FORWARDED[signum])
            deadline_s = min(deadline_s, time.monotonic() + stop_grace_s)
        for end in new:
            if end.is_failure:
                return end
        if any(end.status == EXIT_RESUME for end in new):
            deadline_s = min(deadline_s, time.monotonic() + RESUME_GRACE_S)
    return None


def _described(end: End) -> str:
    return f"rank {end.rank} ended with status {end.status}" + (f" ({end.words})" if end.words else "")
