"""Tasks on a Ray cluster: gives them to a driver there, tells how each ended, and leaves none behind."""

import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from foretrain.launcher.array import folder as folders
from foretrain.launcher.array.active import refuse_active
from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.watch import Ended, watch
from foretrain.launcher.job import Job
from foretrain.launcher.launches import record_launch
from foretrain.launcher.ray import submission
from foretrain.launcher.ray.local_cluster import local_cluster
from foretrain.trainer.lock import locked

DRIVER = "foretrain.launcher.array.ray_driver"
_STOP_S = 30.0
"""So much longer than its tasks the driver may take to end."""
_WORDS = 10
"""Lines of the driver's log that tell why it failed."""


def render(array: JobArray, job: Job, submission_id: str) -> str:
    """The text of `submission.SCRIPT`: what is submitted, and what the driver reads, but for the tasks."""
    launch = array.launch
    values = json.loads(submission.render(job, submission_id, launch.ray.wait_s, launch.stop_lead_s))
    values["submit"]["entrypoint"] = shlex.join([job.python, "-m", DRIVER, str(job.folder / submission.SCRIPT)])
    return json.dumps({**values, "at_once": array.at_once}, indent=1) + "\n"


@contextmanager
def running(array: JobArray, every_s: float = 1.0) -> Iterator[Iterator[Ended]]:
    """Start the tasks, and yield an iterator over their ends, which looks for new ones each every_s.

    They run on the cluster at launch.ray.address, or on one of this machine that ends with the block. When the block is
    left before they have all ended, by Ctrl-C for example, those that run get SIGTERM, have launch.stop_lead_s to end,
    and none is left. Raises ValueError where tasks of this folder run already, or the cluster cannot be reached; the
    iterator raises RuntimeError where the driver fails, as where no node is large enough.
    """
    submission.check()
    with locked(array.folder):
        refuse_active(array.folder, "ray")
        job = as_job(array, os.environ)
        submission_id = f"{job.name}-{time.time_ns() // 1_000_000}"  # Ray takes no name twice
        text = render(array, job, submission_id)
        folders.write(array, job)
        folders.write_private(array.folder / submission.SCRIPT, text)
        with _cluster(array) as address:
            record_launch(array.folder, "ray", submission_id, array.launch.ray.address)
            submission.submit(job, text, address)
            try:
                yield _ends(array, address, submission_id, every_s)
            finally:
                _stop(address, submission_id, array.launch.stop_lead_s + _STOP_S)
                _keep_log(address, submission_id, job.logs)


def _cluster(array: JobArray) -> AbstractContextManager[str]:
    if array.launch.ray.address is not None:
        return nullcontext(array.launch.ray.address)
    num_tasks = tasks_here(array)
    return local_cluster(num_tasks * array.cpus, num_tasks * array.ranks if array.on_gpus else 0)


def tasks_here(array: JobArray) -> int:
    """How many tasks run on this machine at once. Raises ValueError where it has too few GPUs for one."""
    if not array.on_gpus:
        by_cores = max(1, len(os.sched_getaffinity(0)) // array.cpus)
        return min(array.at_once or by_cores, len(array.tasks))
    num_gpus = _gpus_here()
    if num_gpus < array.ranks:
        raise ValueError(
            f"a task needs {array.ranks} GPUs, and this machine has {num_gpus}: name a cluster by launch.ray.address, "
            "or set train.device=cpu"
        )
    return min(array.at_once or len(array.tasks), num_gpus // array.ranks, len(array.tasks))


def _gpus_here() -> int:
    """GPUs that this process may use; asked without torch, which takes seconds to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len([*Path("/proc/driver/nvidia/gpus").glob("*")])
    return there if visible is None else min(there, len([device for device in visible.split(",") if device.strip()]))


def _ends(array: JobArray, address: str, submission_id: str, every_s: float) -> Iterator[Ended]:
    names = [task.name for task in array.tasks]

    def unfinished() -> list[str]:
        return names if submission.is_active(address, submission_id) else []

    for ended in watch(array.folder, names, unfinished, every_s):
        if ended.status is None:
            last = _log(address, submission_id).strip().splitlines()[-_WORDS:]
            raise RuntimeError("\n".join([f"Ray job {submission_id} ended before its tasks; its last words:", *last]))
        yield ended


def _stop(address: str, submission_id: str, within_s: float) -> None:
    """End the job, if it has not ended, and wait for it; Ctrl-C ends the wait."""
    deadline_s = time.monotonic() + within_s
    with suppress(ValueError), submission.connected(address) as client:
        if submission.is_active(address, submission_id):
            client.stop_job(submission_id)
        while submission.is_active(address, submission_id) and time.monotonic() < deadline_s:
            time.sleep(0.2)


def _log(address: str, submission_id: str) -> str:
    """What the driver printed."""
    with submission.connected(address) as client:
        return client.get_job_logs(submission_id)


def _keep_log(address: str, submission_id: str, logs: Path) -> None:
    """Ray's own logs may end with its cluster."""
    with suppress(ValueError, RuntimeError, OSError):
        (logs / f"ray-{submission_id}.log").write_text(_log(address, submission_id), encoding="utf-8")
