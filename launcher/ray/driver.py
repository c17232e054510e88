"""The entrypoint of a Ray job: starts the ranks on the cluster's nodes, and starts them again while that helps.

Usage: python -m foretrain.launcher.ray.driver RUN_DIR/job.ray.json, by Ray's Jobs API. Exits with 0 if the run is
done, 85 if it was stopped, 93 if it can never start as it is, and 1 otherwise.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import ray

from foretrain.launcher.job import Job
from foretrain.launcher.logs import log_path
from foretrain.launcher.ray.actor_group import ActorGroup, NotPlacedError
from foretrain.launcher.ray.agent import Process
from foretrain.launcher.ray.echo import echoed
from foretrain.launcher.ray.elastic import ElasticGroup
from foretrain.launcher.ray.ending import exit_status
from foretrain.launcher.ray.places import Assigned, rank_env
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.stop_signals import StopSignals, connect
from foretrain.launcher.ray.submission import SCRIPT, Request, read
from foretrain.launcher.ray.supervise import Ranks, supervise
from foretrain.launcher.restart import decide, patiently, pause_s, read_starts, record_start
from foretrain.streams import outlive_readers
from foretrain.trainer.run.exit_status import EXIT_CONFIG

_POLL_S = 0.5
LAST_LINE = "the driver exits with status"
"""The start of the last line: Ray keeps no exit status of a job that was stopped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the file describes."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    outlive_readers(lambda reason: None)  # the disk with Ray's logs may be full
    request = read(patiently(lambda: Path(path).read_text(encoding="utf-8")))
    stop_signals = connect()
    if stop_signals is None:
        return EXIT_CONFIG
    os.environ.update(request.job.env)  # the folder of the checkpoints may need the credentials of the ranks
    kind = ActorGroup if request.job.sizes is None else ElasticGroup
    with kind(request.job, request.wait_s) as group:
        status = run(request, group, stop_signals)
    say(f"{LAST_LINE} {status}")
    return status


def run(request: Request, group: ActorGroup | ElasticGroup, stop_signals: StopSignals) -> int:
    """Start the ranks until the run is done, is stopped, or makes no progress; return the driver's exit status."""
    job, job_id = request.job, request.submission_id
    while True:
        try:
            assigned = group.gather(stop_signals)
        except NotPlacedError as error:
            say(str(error))
            return error.status
        _say_places(assigned)
        refusal = record_start(job.folder, job_id, job.max_starts, queued=True)
        if refusal is not None:
            say(refusal)
            return 1
        starts = patiently(lambda: read_starts(job.folder))
        number, step = sum(start.job == job_id for start in starts), starts[-1].step
        say(f"start {number}, {f'from step {step:,}' if step else 'from the start'}; logs in {job.logs}")
        status = _start(request, group, assigned, number, stop_signals)
        if stop_signals.received:
            return exit_status(status, asked=True)
        again, words = decide(job.folder, job_id, job.max_starts, status)
        say(words)
        if not again:
            return exit_status(status, asked=False)
        _pause(pause_s(job.folder, job_id, status), stop_signals)


def _pause(seconds: float, stop_signals: StopSignals) -> None:
    """Wait, at most until the driver is asked to stop."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and not stop_signals.received:
        time.sleep(_POLL_S)


def _start(
    request: Request,
    group: ActorGroup | ElasticGroup,
    assigned: Sequence[Assigned],
    number: int,
    stop_signals: StopSignals,
) -> int:
    """Run all ranks once, and return how that ended."""
    job = request.job
    agents = [group.agents[place.actor] for place in assigned]
    port = ray.get(agents[0].free_port.remote(crc32(f"{request.submission_id} {number}".encode())))
    master = (assigned[0].place.node_ip, port)
    processes = [_process(job, place, len(assigned), master) for place in assigned]
    with echoed(processes[0].log):
        return supervise(Ranks(agents, processes), stop_signals, request.stop_grace_s)


def _process(job: Job, assigned: Assigned, num_ranks: int, master: tuple[str, int]) -> Process:
    return Process(
        title=f"rank {assigned.rank}",
        python=job.python,
        command=job.command,
        place_env=rank_env(assigned, num_ranks, job.ranks_per_node, master),
        request=job.folder / SCRIPT,
        workdir=job.workdir,
        log=log_path(job.logs, assigned.rank),
    )


def _say_places(assigned: Sequence[Assigned]) -> None:
    lines = [f"{len(assigned)} ranks are placed:"]
    for first in assigned:
        if first.local_rank == 0:
            peers = [place.rank for place in assigned if place.place.node_id == first.place.node_id]
            gpus = f", GPUs {','.join(first.node_devices)}" if first.node_devices else ""
            lines.append(f"  {first.place.node_ip} ({first.place.node_id[:8]}): ranks {peers[0]}-{peers[-1]}{gpus}")
    say("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
