"""Runs a Ray job on a private cluster, which ends with it."""

from foretrain.launcher.job import Job
from foretrain.launcher.launches import record_submitted
from foretrain.launcher.local.forwarding import Forwarding, Interrupt
from foretrain.launcher.ray.follow import follow
from foretrain.launcher.ray.local_cluster import local_cluster
from foretrain.launcher.ray.submission import submit


def run_on_own_cluster(job: Job, text: str) -> int:
    """Start a cluster on this machine that is just large enough, run the job on it, and return its exit status.

    text: the script that `submission.render` made. Ctrl-C, SIGTERM and SIGUSR2 have the run write a checkpoint.
    """
    num_ranks = job.num_ranks
    print("starting a Ray cluster on this machine", flush=True)
    try:
        with (
            Forwarding(grace_s=0.0),  # a signal before there is a job raises Interrupt; `follow` handles later ones
            local_cluster(num_ranks * job.cpus_per_rank, num_ranks if job.gpus_per_node else 0) as address,
        ):
            job_id = submit(job, text, address)
            record_submitted(job.folder, "ray", job_id, address)
            return follow(address, job_id)
    except Interrupt as interrupt:
        return 128 + interrupt.signum
