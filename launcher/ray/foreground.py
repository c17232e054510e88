"""Runs a Ray job on a private cluster, which ends with it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from foretrain.launcher.job import Job
from foretrain.launcher.launches import record_launch
from foretrain.launcher.ray.follow import follow
from foretrain.launcher.ray.local_cluster import local_cluster
from foretrain.launcher.ray.submission import submit


def run_on_own_cluster(job: Job, text: str) -> int:
    """Start a cluster on this machine that is just large enough, run the job on it, and return its exit status.

    text: the script that `submission.render` made. Ctrl-C, SIGTERM and SIGUSR2 have the run write a checkpoint.
    """
    num_ranks = job.num_ranks
    with _exits_on(signal.SIGTERM, signal.SIGUSR2):
        print("starting a Ray cluster on this machine", flush=True)
        with local_cluster(num_ranks * job.cpus_per_rank, num_ranks if job.gpus_per_node else 0) as address:
            job_id = submit(job, text, address)
            record_launch(job.folder, "ray", job_id, address)
            return follow(address, job_id)


@contextmanager
def _exits_on(*signals: signal.Signals) -> Iterator[None]:
    """Leave the block by SystemExit at these signals, so that the cluster ends. (`follow` handles them itself.)"""

    def exit_(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, exit_) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
