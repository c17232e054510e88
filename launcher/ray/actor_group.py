"""The actors of a job: asks the cluster for nodes, waits for them, and reports what it waits for."""

import math
import time
from collections.abc import Sequence
from typing import Any, Self

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from foretrain.launcher.job import Job
from foretrain.launcher.ray import resources
from foretrain.launcher.ray.agent import OPTIONS, Agent
from foretrain.launcher.ray.places import Assigned, assign
from foretrain.launcher.ray.resources import Node
from foretrain.launcher.ray.say import say
from foretrain.launcher.ray.stop_signals import StopSignals
from foretrain.trainer.run.exit_status import EXIT_RESUME

_POLL_S = 1.0
_REPORT_EVERY_S = 10.0
_RETRY_S = 5.0
_START_S = 300.0
"""Seconds that the actors may take to start on nodes that Ray has granted."""


class NotPlacedError(Exception):
    """The actors could not be started; `status` is the driver's exit status."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


class ActorGroup:
    """The nodes of a job, which it keeps over all its starts, and an actor for every rank."""

    def __init__(self, job: Job, wait_s: float) -> None:
        self._job, self._wait_s = job, wait_s
        # Ray replaces a node that is lost.
        self._nodes = placement_group([resources.bundle(job)] * job.num_nodes, strategy="STRICT_SPREAD")
        self.agents: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.drop()
        remove_placement_group(self._nodes)

    def drop(self) -> None:
        """End the actors, and with them what is left of their ranks."""
        for agent in self.agents:
            ray.kill(agent)
        self.agents = []

    def gather(self, stop_signals: StopSignals) -> list[Assigned]:
        """Start new actors, wait for all of them, and assign the ranks. Raises NotPlacedError."""
        say(f"asks for {resources.asked(self._job)}")
        deadline_s = time.monotonic() + self._wait_s
        while True:
            self.drop()
            self.agents = self._start()
            places = [agent.place.remote() for agent in self.agents]
            self._wait(places, deadline_s, stop_signals)
            try:
                return assign(ray.get(places), self._job.ranks_per_node)
            except RayError as error:
                # A node may have died without Ray noticing yet.
                if time.monotonic() > deadline_s + _START_S:
                    raise NotPlacedError(f"the actors do not start: {error}", 1) from None
                say(f"an actor did not start, tries again: {error}")
                time.sleep(_RETRY_S)

    def _start(self) -> list[Any]:
        job = self._job
        options: dict[str, Any] = {
            **OPTIONS,
            "num_cpus": job.cpus_per_rank,
            "num_gpus": 1 if job.gpus_per_node else 0,
        }
        actor = ray.remote(Agent)
        return [
            actor.options(
                **options,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._nodes, placement_group_bundle_index=node),
            ).remote()
            for node in range(job.num_nodes)
            for _ in range(job.ranks_per_node)
        ]

    def _wait(self, places: Sequence[Any], deadline_s: float, stop_signals: StopSignals) -> None:
        """Wait until all actors have reported their places, or one of them has failed. Raises NotPlacedError."""
        reported_s = -math.inf
        missing = [*places]
        while missing:
            _, missing = ray.wait(missing, num_returns=len(missing), timeout=_POLL_S)
            if stop_signals.received:
                raise NotPlacedError("stopped before there were ranks", EXIT_RESUME)
            now_s = time.monotonic()
            granted = bool(missing) and placement_group_table(self._nodes)["state"] == "CREATED"
            if missing and not granted and now_s > reported_s + _REPORT_EVERY_S:
                reported_s = now_s
                say("\n".join(["waits; the nodes:", *resources.overview(self._job, alive_nodes())]))
            if missing and not granted and now_s > deadline_s:
                raise NotPlacedError(*resources.shortage(self._job, alive_nodes(), self._wait_s))
            if missing and now_s > deadline_s + _START_S:
                raise NotPlacedError(f"{len(missing)} actors did not start in {_START_S:g} s: see Ray's own logs", 1)


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    available = available_resources_per_node()
    return [
        Node(node["NodeManagerAddress"], node["Resources"], available.get(node["NodeID"], {}))
        for node in ray.nodes()
        if node["Alive"]
    ]
