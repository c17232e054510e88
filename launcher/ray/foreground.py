"""Runs a Ray job on a cluster that is started for it alone, and ends with it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from foretrain.launcher.job import Job
from foretrain.launcher.ray.follow import follow
from foretrain.launcher.ray.local_cluster import local_cluster
from foretrain.launcher.ray.submission import submit


def run_on_own_cluster(job: Job, text: str) -> int:
    """Start a cluster of this machine that is just large enough, run the job on it, and return its exit status.

    text: of `render`, and in the run's folder. Ctrl-C, SIGTERM and SIGUSR2 have the run write a checkpoint.
    """
    num_ranks = job.num_ranks
    with _exits_on(signal.SIGTERM, signal.SIGUSR2):
        print("starting a Ray cluster of this machine", flush=True)
        with local_cluster(num_ranks * job.cpus_per_rank, num_ranks if job.gpus_per_node else 0) as address:
            return follow(address, submit(job, text, address))


@contextmanager
def _exits_on(*signals: signal.Signals) -> Iterator[None]:
    """While there is no job to pass them on to, leave the block by an exception: the cluster is to end."""

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, leave) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
