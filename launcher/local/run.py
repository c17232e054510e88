"""Runs a function on several ranks of this machine, in the foreground."""

import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foretrain.launcher.local.capacity import RANKS_PER_CORE, ranks_on_cores
from foretrain.launcher.local.forkserver import PRELOAD, ServerEndedError
from foretrain.launcher.local.forwarding import Forwarding, Interrupt, Stop
from foretrain.launcher.local.outcome import Outcome, Raised, Returned
from foretrain.launcher.local.ranks import Ranks, started
from foretrain.launcher.local.report import details, first_failure, headline, is_decision, print_failure

_SETTLE_S = 1.0
"""Seconds to wait for the cause after a failure: a rank that failed because another died may report first."""
_EXIT_NO_SERVER = 255
"""The status that multiprocessing gives a rank whose fork server was killed: such a run is started again."""


class RankError(RuntimeError):
    """A rank failed; the message names the rank and has its traceback. `outcome`: how the rank ended."""

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


def run_local(
    target: str,
    args: tuple = (),
    world_size: int = 1,
    *,
    log_dir: Path | None = None,
    stop_grace_s: float = 60.0,
    preload: Sequence[str] = PRELOAD,
) -> int:
    """Run target(*args) on `world_size` ranks, wait for them, and return an exit status for the shell.

    target: "package.module:function", imported by name in each rank. If the function has an attribute `on_start`, that
    is called first, so that it can install handlers before a signal reaches the rank. Rank 0 prints where this process
    prints, the others into log_dir/rank-NNN.log; without `log_dir` all print here. `preload`: modules to
    import once for all ranks of this process; the first call decides.

    The status is 0, or that of the rank that failed first: 1 for an exception, n for sys.exit(n), 128 + n for signal n.
    It is 255 if the fork server ended before it started a rank. That failure is printed on stderr, and the other ranks
    are stopped. SIGINT and SIGHUP (as SIGTERM), SIGTERM and SIGUSR2 are forwarded to the ranks, which then have
    `stop_grace_s` seconds to end; a second Ctrl-C kills them. If ranks do not react to a signal, the status is 128 +
    its number. No rank outlives this call or this process.

    Call it from the main thread. Raises ValueError if world_size < 1, or if `check_fits` refuses it.
    """
    check_fits(world_size)
    with Forwarding(stop_grace_s) as forwarding:
        try:
            with started(target, args, world_size, log_dir=log_dir, preload=preload) as ranks:
                forwarding.forward_to(ranks.send)
                _supervise(ranks, forwarding.stop)
                if forwarding.stop.signum is not None:
                    return _end_stopped(ranks, forwarding.stop.signum, log_dir)
                return _end(ranks, log_dir)
        except Interrupt as interrupt:
            return 128 + interrupt.signum
        except ServerEndedError as error:
            print(f"error: {error}", file=sys.stderr)
            return _EXIT_NO_SERVER


def check_fits(world_size: int) -> None:
    """Raise ValueError if that many ranks are more than RANKS_PER_CORE on each core that this process may use."""
    if world_size > ranks_on_cores():
        num_cores = len(os.sched_getaffinity(0))
        raise ValueError(
            f"{world_size} ranks are too many for this machine's {num_cores} cores (at most {RANKS_PER_CORE} a core): "
            "lower parallel.dp, parallel.tp or parallel.pp, or start the run on a cluster"
        )


def call_local(
    target: str,
    args: tuple = (),
    world_size: int = 1,
    *,
    preload: Sequence[str] = PRELOAD,
    timeout_s: float = float("inf"),
) -> list[Any]:
    """Run target(*args) on world_size ranks as `run_local` does, and return what each returned, in order of ranks.

    What the target returns must be picklable. Raises RankError with the traceback of the rank that failed first, and
    TimeoutError after timeout_s, when each rank left has printed the stacks of its threads on stderr.
    """
    with started(target, args, world_size, preload=preload, keep_result=True) as ranks:
        _supervise(ranks, Stop(time.monotonic() + timeout_s))
        failure = first_failure(ranks.outcomes.values())
        if failure is not None:
            raise RankError(f"{headline(failure)}\n{details(failure, None)}", failure)
        if ranks.running:
            late = ranks.running
            ranks.abort()
            raise TimeoutError(f"{target} on {world_size} ranks: ranks {late} still ran after {timeout_s:g} s")
        return [_value(ranks.outcomes[rank]) for rank in range(world_size)]


def _supervise(ranks: Ranks, stop: Stop) -> None:
    """Wait until all ranks have ended, a failure has settled, or the deadline of `stop` has passed."""
    settled_s = float("inf")
    while ranks.running:
        # Ranks that were asked to stop end one by one, and the last may still be saving.
        end_s = stop.deadline_s if stop.signum is not None else min(stop.deadline_s, settled_s)
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            return
        # A signal's handler moves the deadline while this waits, hence the half second.
        ranks.poll(min(left_s, 0.5))
        if settled_s == float("inf") and first_failure(ranks.outcomes.values()):
            settled_s = time.monotonic() + _SETTLE_S


def _end(ranks: Ranks, log_dir: Path | None) -> int:
    failure = first_failure(ranks.outcomes.values())
    ranks.stop()
    if failure is None:
        return 0
    if not is_decision(ranks.outcomes.values()):
        print_failure(failure, ranks.outcomes.values(), log_dir)
    return failure.status


def _end_stopped(ranks: Ranks, signum: int, log_dir: Path | None) -> int:
    late = ranks.running
    answers = [outcome for outcome in ranks.outcomes.values() if outcome.signal_name is None]
    ranks.kill()
    if late:
        print(f"ranks {late} did not end in time and were killed", file=sys.stderr)
    failure = first_failure(answers)
    all_answered = len(answers) == len(ranks.outcomes) and not late
    is_victim = failure is not None and isinstance(failure.report, Raised) and failure.report.is_communication
    if failure is not None and (all_answered or not is_victim):
        if not is_decision(answers):
            print_failure(failure, answers, log_dir)
        return failure.status
    return 0 if all_answered else 128 + signum


def _value(outcome: Outcome) -> Any:
    if not isinstance(outcome.report, Returned) or outcome.report.value is None:
        raise RankError(f"rank {outcome.rank} exited before its function returned", outcome)
    return pickle.loads(outcome.report.value)
