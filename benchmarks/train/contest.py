"""The contest: every contestant is started and checked, and then all take a few steps at a time in turn."""

import os
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.train.agreement import NUM_CHECKED, Start, largest_difference, refusal
from benchmarks.train.contestants import BARE, Contestant
from benchmarks.train.task import Task, write_task
from benchmarks.train.workers import Worker, WorkerError
from foretrain.progress import JobProgress

Record = dict[str, Any]
REFERENCE = BARE
LEAD = 1
"""Steps of a turn that are not measured: meanwhile the caches held what another contestant needs."""
SPARE = 2
"""Steps that no contestant takes, so that no run ends."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and where."""

    task: Task
    contestants: Mapping[str, Contestant]
    """By name; the reference is among them."""
    sessions: int
    """How often all contestants are started again."""
    rounds: int
    """Turns of each contestant in a session."""
    steps: int
    """Measured steps of a contestant in a round."""
    warmup: int
    """Steps of a contestant before the first round."""
    folder: Path
    peers: Path | None = None
    profile: bool = False
    seed: int = 0
    """Seed of the order of the contestants in each round."""

    @property
    def num_steps(self) -> int:
        """Steps for which there must be batches."""
        turns = self.rounds + self.profile
        return 1 + NUM_CHECKED + self.warmup + turns * (LEAD + self.steps) + SPARE


class RefusedReferenceError(Exception):
    """The contestant with which all others are compared does not run."""


def contest(plan: Plan, progress: JobProgress) -> Iterator[Record]:
    """Records of type "start" (each contestant), "round" (each contestant in each round) and "profile", by session.

    A contestant that cannot run, or that does not compute what the reference does, has a start with `missing`, `failed`
    or `refused`, and is not measured. Raises RefusedReferenceError if the reference fails.
    """
    plan = replace(plan, task=replace(plan.task, num_steps=plan.num_steps))
    shared = plan.folder / "shared"
    shared.mkdir()
    write_task(plan.task, shared)
    for session in range(plan.sessions):
        is_last = session == plan.sessions - 1
        for record in _session(plan, shared, session, plan.profile and is_last, progress):
            yield {"session": session, **record}


def _session(plan: Plan, shared: Path, session: int, profiles: bool, progress: JobProgress) -> Iterator[Record]:
    """The records of contestants from their start to their end."""
    label, folder = f"session {session + 1} of {plan.sessions}", plan.folder / f"session_{session}"
    with ExitStack() as stack:
        workers = yield from _start(plan, shared, folder, stack, progress)
        if plan.warmup:
            for name in list(workers):
                yield from _turn(workers, name, {"type": "warmup"}, plan.warmup)
        draw = random.Random(f"{plan.seed} {session}")
        for number in range(plan.rounds):
            for name in draw.sample(list(workers), len(workers)):
                yield from _turn(workers, name, {"type": "round", "round": number}, plan.steps, lead=LEAD)
                progress.advance(1)
            progress.log(f"{label}, round {number + 1} of {plan.rounds}, {progress.time_left()}")
        for name in list(workers) if profiles else ():
            yield from _turn(workers, name, {"type": "profile"}, plan.steps, lead=LEAD, profile=True)


def _turn(workers: dict[str, Worker], name: str, record: Record, steps: int, **more: Any) -> Iterator[Record]:
    """The record of some steps of a contestant. One that fails is left out from then on."""
    asked = {**record, "contestant": name, "load_before": os.getloadavg()[0]}
    try:
        yield {**asked, **workers[name].steps(steps, **more)}
    except WorkerError as error:
        del workers[name]
        yield {**asked, "type": "start", **error.record}


def _start(
    plan: Plan, shared: Path, folder: Path, stack: ExitStack, progress: JobProgress
) -> Generator[Record, None, dict[str, Worker]]:
    """Yield the start of each contestant, the reference first, and return the workers of those that are measured."""
    workers: dict[str, Worker] = {}
    reference: Start | None = None
    for name in sorted(plan.contestants, key=lambda name: name != REFERENCE):
        record: Record = {"type": "start", "contestant": name}
        try:
            own = folder / f"contestant_{list(plan.contestants).index(name)}"
            worker = Worker(plan.contestants[name], plan.task, shared, own, plan.peers)
            stack.callback(worker.close)
            start = _checked_steps(worker)
        except WorkerError as error:
            if name == REFERENCE:
                raise RefusedReferenceError(f"the reference, {name}, does not run: {error.record}") from error
            progress.say(f"{name}: {error.record}")
            yield record | error.record
            continue
        reference = reference or start
        record |= {"ready_s": worker.ready_s, "first_step_s": worker.first_step_s, **vars(start)}
        record["largest_difference"] = largest_difference(start, reference)
        reason = refusal(start, reference, plan.task.precision)
        if reason is None:
            workers[name] = worker
            progress.log(f"{name}: the first step ended after {worker.first_step_s:.1f} s")
        else:
            worker.close()
            record["refused"] = reason
            progress.say(f"{name} is refused: {reason}")
        yield record
    return workers


def _checked_steps(worker: Worker) -> Start:
    rest = worker.steps(NUM_CHECKED - 1, norm=True)
    losses: Sequence[float] = [*worker.losses, *rest["losses"]]
    grad_norms = [*worker.grad_norms, *rest["grad_norms"]]
    return Start(losses, grad_norms, worker.initial_norm, rest["weights_norm"], rest["threads"])
