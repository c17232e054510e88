"""The tasks of a job array that run on Ray, each in an actor of its own, and how they end."""

from typing import Any

import ray
from ray.exceptions import RayError

from foretrain.launcher.array.ending import log_path
from foretrain.launcher.array.task import Task
from foretrain.launcher.job import Job
from foretrain.launcher.ray.agent import OPTIONS, Agent, Process
from foretrain.launcher.ray.places import Place
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.submission import SCRIPT
from foretrain.launcher.ray.supervise import end_of

NOT_STARTED = -1
"""Stands for an exit status: the actor was lost before it could start the task."""


class RunningTasks:
    """Tasks that run, or wait for room on a node."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.placing: dict[Any, tuple[Task, Any]] = {}
        """Tasks that wait for room, and their actors, by the reference to the call that the actor then answers."""
        self.running: dict[Any, tuple[Task, Any]] = {}
        """Tasks that run, and their actors, by the reference to the call that ends with the task."""

    def __len__(self) -> int:
        return len(self.placing) + len(self.running)

    def start(self, task: Task) -> None:
        """Start a task as soon as there is room for it."""
        job = self._job
        actor: Any = ray.remote(Agent)
        agent = actor.options(
            num_cpus=job.ranks_per_node * job.cpus_per_rank,
            num_gpus=job.gpus_per_node,
            **OPTIONS,
        ).remote()
        self.placing[agent.place.remote()] = task, agent

    def poll(self, timeout_s: float) -> list[tuple[Task, int]]:
        """Wait at most `timeout_s` seconds for a change; return the tasks that ended, and their exit statuses."""
        references = [*self.placing, *self.running]
        ray.wait(references, num_returns=1, timeout=timeout_s)
        done, _ = ray.wait(references, num_returns=len(references), timeout=0)
        ends = []
        for reference in done:
            if reference in self.placing:
                task, agent = self.placing.pop(reference)
                if not self._placed(task, agent, reference):
                    ends.append((task, NOT_STARTED))
            else:
                task, agent = self.running.pop(reference)
                end = end_of(0, reference)
                if end.words:
                    say(f"{task.name}: {end.words}")
                ends.append((task, end.status))
                ray.kill(agent)
        return ends

    def _placed(self, task: Task, agent: Any, reference: Any) -> bool:
        """Have an actor that Ray has placed start its task; return False if the actor is lost."""
        try:
            place = ray.get(reference)
        except RayError as error:
            say(f"{task.name}: its actor did not start, tries again: {error}")
            return False
        self.running[agent.run.remote(self._process(task, place))] = task, agent
        say(f"{task.name}: starts on {place.node_ip} ({place.node_id[:8]})")
        return True

    def _process(self, task: Task, place: Place) -> Process:
        job = self._job
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(place.devices)} if place.devices else {}
        return Process(
            title=f"task {task.name}",
            python=job.python,
            command=task.command,
            place_env=devices,
            request=job.folder / SCRIPT,
            workdir=job.workdir,
            log=log_path(job.folder, task.name),
        )

    def send(self, signum: int) -> None:
        """Send a signal to all tasks that run."""
        for _, agent in self.running.values():
            agent.signal.remote(signum)

    def drop_placing(self) -> None:
        """Drop the tasks that wait for room."""
        for _, agent in self.placing.values():
            ray.kill(agent)
        self.placing.clear()

    def drop(self) -> None:
        """End all tasks at once."""
        self.drop_placing()
        for _, agent in self.running.values():
            ray.kill(agent)
        self.running.clear()
