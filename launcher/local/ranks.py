"""The processes of one local run: starts them, receives their reports, signals them, and leaves none behind."""

import os
import pickle
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import Pipe, connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from foretrain.launcher.local import forkserver, rank
from foretrain.launcher.local.outcome import Exited, Outcome, Raised, Report
from foretrain.launcher.logs import log_path, open_log
from foretrain.parallel import loopback

_TERM_GRACE_S = 5.0
_KILL_GRACE_S = 10.0


def rank_env(base: Mapping[str, str], rank_: int, world_size: int, port: int) -> dict[str, str]:
    """The environment of one rank: `base`, and the variables that torch.distributed's env:// reads."""
    env = dict(base)
    # If it is set, DeepSpeed compiles a shared-memory operator, and the machine may have no compiler.
    env.pop("LOCAL_SIZE", None)
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // world_size)))
    env |= {"RANK": str(rank_), "LOCAL_RANK": str(rank_)}
    env |= {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    # All ranks are clients of the launcher's store: no rank needs a free port, and the store outlives rank 0.
    env |= {"MASTER_ADDR": loopback.ADDRESS, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    loopback.stay_on_loopback(env)
    return env


class Ranks:
    """Running ranks and the outcomes of those that ended."""

    def __init__(self, server_env: Mapping[str, str]) -> None:
        self._server_env = server_env
        self.processes: list[BaseProcess] = []
        self.outcomes: dict[int, Outcome] = {}
        """The outcome of each rank that has reported its end, or whose process has ended."""
        self._reports: dict[int, Connection] = {}

    def start(self, setup: rank.Setup) -> None:
        """Start the next rank."""
        index = len(self.processes)
        receiver, sender = Pipe(duplex=False)
        self._reports[index] = receiver
        with sender:
            process = forkserver.start(rank.main, setup, sender, name=f"rank-{index}", server_env=self._server_env)
            self.processes.append(process)

    @property
    def running(self) -> list[int]:
        """Ranks whose process has not been seen to end."""
        return [
            index
            for index in range(len(self.processes))
            if index not in self.outcomes or self.outcomes[index].exit_code is None
        ]

    def poll(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` seconds until a rank reports or ends, and update `outcomes`."""
        running = self.running
        sentinels = {self.processes[index].sentinel: index for index in running}
        reports = {self._reports[index]: index for index in running if index in self._reports}
        for ready in connection.wait([*reports, *sentinels], timeout=timeout_s):
            if isinstance(ready, Connection):
                self._receive(reports[ready])
            else:
                assert isinstance(ready, int)
                self._reap(sentinels[ready])

    def _receive(self, index: int) -> None:
        with self._reports.pop(index) as receiver:
            try:
                report: Report = pickle.loads(receiver.recv_bytes())
            except EOFError:
                return
        at_s = report.at_s if isinstance(report, Raised | Exited) else time.monotonic()
        self.outcomes[index] = Outcome(index, report, None, at_s)

    def _reap(self, index: int) -> None:
        process = self.processes[index]
        process.join()
        if index in self._reports and self._reports[index].poll():
            self._receive(index)
        known = self.outcomes.get(index) or Outcome(index, None, None, time.monotonic())
        self.outcomes[index] = Outcome(index, known.report, process.exitcode, known.at_s)

    def send(self, signum: int, only: int | None = None) -> None:
        """Send a signal to every rank that runs, or to one."""
        for index in self.running if only is None else [only]:
            pid = self.processes[index].pid
            assert pid is not None
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def wait(self, timeout_s: float, only: int | None = None) -> bool:
        """Wait for all ranks, or for one, to end; return whether they did."""
        deadline_s = time.monotonic() + timeout_s
        while (left := self.running if only is None else {only} & {*self.running}) and time.monotonic() < deadline_s:
            self.poll(deadline_s - time.monotonic())
        return not left

    def stop(self, grace_s: float = _TERM_GRACE_S) -> None:
        """End all ranks: with SIGTERM, and after `grace_s` seconds with SIGKILL."""
        self.send(signal.SIGTERM)
        if not self.wait(grace_s):
            self.kill()

    def abort(self) -> None:
        """End all ranks, each printing the stacks of its threads, one rank after the other."""
        hanging = self.running
        # All ranks are paused first: a rank that hangs must print its stacks before the end of a peer frees it.
        self.send(signal.SIGSTOP)
        for index in hanging:
            # faulthandler prints the stacks.
            self.send(signal.SIGABRT, index)
            self.send(signal.SIGCONT, index)
            self.wait(_TERM_GRACE_S, index)
        self.kill()

    def kill(self) -> None:
        """End all ranks at once."""
        self.send(signal.SIGKILL)
        if not self.wait(_KILL_GRACE_S):
            raise RuntimeError(f"ranks {self.running} did not end within {_KILL_GRACE_S:.0f} s of SIGKILL")


@contextmanager
def started(
    target: str,
    args: tuple,
    world_size: int,
    *,
    env: Mapping[str, str] | None = None,
    log_dir: Path | None = None,
    preload: Sequence[str] = forkserver.PRELOAD,
    keep_result: bool = False,
) -> Iterator[Ranks]:
    """Yield Ranks that run target(*args); none of them runs any more after the block.

    Raises ValueError if world_size < 1, and RuntimeError if the fork server ends before it starts them.
    """
    if world_size < 1:
        raise ValueError(f"world_size = {world_size} must be at least 1")
    server_env = forkserver.server_env(env or {}, preload)
    forkserver.ensure_running(server_env)
    # After the fork server has started, since both import torch, which takes seconds.
    store = loopback.loopback_store()
    base = {**os.environ, **(env or {})}
    pickled = pickle.dumps(args)
    ranks = Ranks(server_env)
    try:
        for index in range(world_size):
            with ExitStack() as files:
                stdout, stderr = 1, 2
                if log_dir is not None and index > 0:
                    log = open_log(log_path(log_dir, index), f"rank {index}")
                    stdout = stderr = files.enter_context(log).fileno()
                setup = rank.Setup(
                    target=target,
                    args=pickled,
                    keep_result=keep_result,
                    env=rank_env(base, index, world_size, store.port),
                    stdout=forkserver.InheritedFd(stdout),
                    stderr=forkserver.InheritedFd(stderr),
                )
                ranks.start(setup)
        yield ranks
    finally:
        ranks.kill()
