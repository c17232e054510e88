"""The actors of an elastic job: each start has as many nodes as the cluster can give."""

import time
from dataclasses import replace
from typing import Any, Self

from foretrain.launcher.job import Job
from foretrain.launcher.ray.actor_group import ActorGroup, NotPlacedError, alive_nodes
from foretrain.launcher.ray.places import Assigned
from foretrain.launcher.ray.resources import num_able, num_free
from foretrain.launcher.ray.stop_signals import StopSignals

_RECOUNT_S = 20.0
"""Seconds to wait for nodes before those that are free are counted: Ray may notice late that a node has died."""
_RELEASE_S = 3.0
"""Seconds until Ray counts resources that were given back as free."""


class ElasticGroup:
    """An ActorGroup that is replaced by one with another number of nodes when that of usable nodes has changed."""

    def __init__(self, job: Job, wait_s: float) -> None:
        assert job.sizes is not None
        self._job, self._wait_s = job, wait_s
        self._numbers = job.sizes.nodes(job.ranks_per_node)
        self._group: ActorGroup | None = None
        self._num_nodes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    @property
    def agents(self) -> list[Any]:
        """The actors of the newest start."""
        return self._group.agents if self._group is not None else []

    def gather(self, stop_signals: StopSignals) -> list[Assigned]:
        """Start actors on as many nodes as there are, wait for them, and assign the ranks.

        Raises NotPlacedError after the time to wait, but not before the nodes that are free were tried once.
        """
        deadline_s = time.monotonic() + self._wait_s
        usable, tried_free = num_able(self._job, alive_nodes()), False
        while True:
            try:
                return self._resized(usable).gather(stop_signals)
            except NotPlacedError:
                if stop_signals.received or (tried_free and time.monotonic() > deadline_s):
                    raise
            self._release()  # else what the group holds would not be free
            time.sleep(_RELEASE_S)
            usable, tried_free = num_free(self._job, alive_nodes()), True

    def _resized(self, usable: int) -> ActorGroup:
        """The group for the largest number of nodes that the job can use and that are there, or for the smallest."""
        num_nodes = max((number for number in self._numbers if number <= usable), default=self._numbers[0])
        if self._group is None or num_nodes != self._num_nodes:
            self._release()
            self._num_nodes = num_nodes
            self._group = ActorGroup(replace(self._job, num_nodes=num_nodes), min(self._wait_s, _RECOUNT_S))
        return self._group

    def _release(self) -> None:
        if self._group is not None:
            self._group.__exit__()
            self._group = None
