"""Job arrays on a Ray cluster: a driver there runs the tasks, and none is left when the array ends."""

import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from foretrain.launcher.array.job_array import JobArray, as_job
from foretrain.launcher.array.watch import Ended, watch
from foretrain.launcher.job import Job
from foretrain.launcher.launches import record_launch
from foretrain.launcher.private import write_private
from foretrain.launcher.ray import submission
from foretrain.launcher.ray.local_cluster import local_cluster

DRIVER = "foretrain.launcher.array.ray_driver"
_STOP_S = 30.0
"""Seconds that the driver may need to end after its tasks."""
_TAIL_LINES = 10
"""Lines of the log that are shown if the driver fails."""


def render(array: JobArray, job: Job, submission_id: str) -> str:
    """The text of `submission.SCRIPT`: what is submitted, and what the driver reads, except for the tasks."""
    launch = array.launch
    values = json.loads(submission.render(job, submission_id, launch.ray.wait_s, launch.stop_lead_s))
    values["submit"]["entrypoint"] = shlex.join([job.python, "-m", DRIVER, str(job.folder / submission.SCRIPT)])
    return json.dumps({**values, "at_once": array.at_once}, indent=1) + "\n"


class RayArrays:
    """Runs job arrays on the cluster at launch.ray.address, or on one of this machine that ends with them."""

    outlives_command = False

    @contextmanager
    def run(self, array: JobArray, every_s: float = 1.0) -> Iterator[Iterator[Ended]]:
        """Start the tasks, and yield an iterator over their ends, which looks for new ones every `every_s` seconds.

        If the block ends before they do, by Ctrl-C for example, those that run get SIGTERM and have launch.stop_lead_s
        to end, and none is left. Raises ValueError if the cluster cannot be reached; the iterator raises RuntimeError
        if the driver fails, for example because no node is large enough.
        """
        job = as_job(array, os.environ)
        submission_id = f"{job.name}-{time.time_ns() // 1_000_000}"  # Ray takes no name twice
        text = render(array, job, submission_id)
        write_private(array.folder / submission.SCRIPT, text)
        with _cluster(array) as address:
            record_launch(array.folder, "ray", submission_id, address)
            submission.submit(job, text, address)
            try:
                yield _ends(array, address, submission_id, every_s)
            finally:
                _stop(address, submission_id, array.launch.stop_lead_s + _STOP_S)
                submission.keep_log(address, submission_id, job.logs)

    def follow(self, folder: Path) -> Iterator[Ended]:
        """No task outlives its command."""
        return iter(())


def _cluster(array: JobArray) -> AbstractContextManager[str]:
    if array.launch.ray.address is not None:
        return nullcontext(array.launch.ray.address)
    num_tasks = tasks_here(array)
    return local_cluster(num_tasks * array.cpus, num_tasks * array.ranks if array.on_gpus else 0)


def tasks_here(array: JobArray) -> int:
    """The number of tasks that run on this machine at once. Raises ValueError if it has too few GPUs for one."""
    if not array.on_gpus:
        by_cores = max(1, len(os.sched_getaffinity(0)) // array.cpus)
        return min(array.at_once or by_cores, len(array.tasks))
    num_gpus = num_gpus_here()
    if num_gpus < array.ranks:
        raise ValueError(
            f"a task needs {array.ranks} GPUs, and this machine has {num_gpus}: name a cluster by launch.ray.address, "
            "or set train.device=cpu"
        )
    return min(array.at_once or len(array.tasks), num_gpus // array.ranks, len(array.tasks))


def num_gpus_here() -> int:
    """The number of GPUs that this process may use, without importing torch, which takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len([*Path("/proc/driver/nvidia/gpus").glob("*")])
    return there if visible is None else min(there, len([device for device in visible.split(",") if device.strip()]))


def _ends(array: JobArray, address: str, submission_id: str, every_s: float) -> Iterator[Ended]:
    names = [task.name for task in array.tasks]

    def unfinished() -> list[str]:
        return names if submission.is_active(address, submission_id) else []

    for ended in watch(array.folder, names, unfinished, every_s):
        if ended.status is None:
            last = submission.log(address, submission_id).strip().splitlines()[-_TAIL_LINES:]
            raise RuntimeError("\n".join([f"Ray job {submission_id} ended before its tasks; its last words:", *last]))
        yield ended


def _stop(address: str, submission_id: str, within_s: float) -> None:
    """End the job, if it has not ended, and wait for that."""
    deadline_s = time.monotonic() + within_s
    with suppress(ValueError), submission.connected(address) as client:
        if submission.is_active(address, submission_id):
            client.stop_job(submission_id)
        while submission.is_active(address, submission_id) and time.monotonic() < deadline_s:
            time.sleep(0.2)
