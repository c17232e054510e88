"""The tasks of a job array that run on Ray, each in an actor of its own, and how they end."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from foretrain.launcher.array.ending import log_path
from foretrain.launcher.array.task import Task
from foretrain.launcher.job import Job
from foretrain.launcher.ray.agent import OPTIONS, Agent, RankProcess
from foretrain.launcher.ray.places import Place
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.supervise import end_of

NOT_STARTED = -1
"""Stands for an exit status: the actor was lost before it could start the task."""


@dataclass(frozen=True)
class TaskProcess(RankProcess):
    """The process of a task. It starts the ranks of the task itself."""

    name: str

    @property
    def log_start(self) -> str:
        """The start of the first line in its log."""
        return f"--- task {self.name}"


@dataclass(frozen=True)
class _Start:
    task: Task
    agent: Any


class RunningTasks:
    """Tasks that run, or wait for room on a node."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._placing: dict[Any, _Start] = {}
        self._running: dict[Any, _Start] = {}

    def __len__(self) -> int:
        return len(self._placing) + len(self._running)

    @property
    def num_placing(self) -> int:
        """Tasks that wait for room."""
        return len(self._placing)

    @property
    def num_running(self) -> int:
        """Tasks that run."""
        return len(self._running)

    def start(self, task: Task) -> None:
        """Start a task as soon as there is room for it."""
        job = self._job
        actor: Any = ray.remote(Agent)
        agent = actor.options(
            num_cpus=job.ranks_per_node * job.cpus_per_rank,
            num_gpus=job.gpus_per_node,
            **OPTIONS,
        ).remote()
        self._placing[agent.place.remote()] = _Start(task, agent)

    def poll(self, timeout_s: float) -> list[tuple[Task, int]]:
        """Wait at most `timeout_s` seconds for a change; return the tasks that ended, and their exit statuses."""
        references = [*self._placing, *self._running]
        ray.wait(references, num_returns=1, timeout=timeout_s)
        done, _ = ray.wait(references, num_returns=len(references), timeout=0)
        ends = []
        for reference in done:
            if reference in self._placing:
                start = self._placing.pop(reference)
                if not self._placed(start, reference):
                    ends.append((start.task, NOT_STARTED))
            else:
                start = self._running.pop(reference)
                ends.append((start.task, _status(start, reference)))
                ray.kill(start.agent)
        return ends

    def _placed(self, start: _Start, reference: Any) -> bool:
        """Have an actor that Ray has placed start its task; return False if the actor is lost."""
        try:
            place = ray.get(reference)
        except RayError as error:
            say(f"{start.task.name}: its actor did not start, tries again: {error}")
            return False
        self._running[start.agent.run.remote(self._process(start.task, place))] = start
        say(f"{start.task.name}: starts on {place.node_ip} ({place.node_id[:8]})")
        return True

    def _process(self, task: Task, place: Place) -> TaskProcess:
        job = self._job
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(place.devices)} if place.devices else {}
        return TaskProcess(
            rank=0,
            python=job.python,
            command=task.command,
            env={**dict(job.env), **devices},
            workdir=job.workdir,
            log=log_path(job.folder, task.name),
            name=task.name,
        )

    def send(self, signum: int) -> None:
        """Send a signal to all tasks that run."""
        for start in self._running.values():
            start.agent.signal.remote(signum)

    def drop_placing(self) -> None:
        """Drop the tasks that wait for room."""
        for start in self._placing.values():
            ray.kill(start.agent)
        self._placing.clear()

    def drop(self) -> None:
        """End all tasks at once."""
        self.drop_placing()
        for start in self._running.values():
            ray.kill(start.agent)
        self._running.clear()


def _status(start: _Start, reference: Any) -> int:
    end = end_of(0, reference)
    if end.words:
        say(f"{start.task.name}: {end.words}")
    return end.status
