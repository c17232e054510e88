"""What a job needs of a cluster's nodes, what they have, and what is missing, in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretrain.launcher.job import Job
from foretrain.trainer.run.exit_status import EXIT_CONFIG

_MAX_LINES = 32


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    address: str
    total: Mapping[str, float]
    """Resources by Ray's names: CPU, GPU."""
    available: Mapping[str, float]
    """The part of them that is free."""


def bundle(job: Job) -> dict[str, float]:
    """The resources that a job needs on each node."""
    asked = {"CPU": float(job.cpus_per_rank * job.ranks_per_node)}
    if job.gpus_per_node:
        asked["GPU"] = float(job.ranks_per_node)
    return asked


def _has(resources: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0.0) >= number for name, number in asked.items())


def num_able(job: Job, nodes: Sequence[Node]) -> int:
    """The number of nodes that are large enough for a job."""
    return sum(_has(node.total, bundle(job)) for node in nodes)


def num_free(job: Job, nodes: Sequence[Node]) -> int:
    """The number of nodes that have enough free resources for a job."""
    return sum(_has(node.available, bundle(job)) for node in nodes)


def asked(job: Job) -> str:
    """The request of a job in words."""
    return f"{job.num_nodes} node{'s' * (job.num_nodes > 1)} with {_words(bundle(job))} each"


def _words(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{number:g} {name}{'s' * (number != 1)}" for name, number in resources.items())


def overview(job: Job, nodes: Sequence[Node]) -> list[str]:
    """A line for each node: what is free and what it has."""
    names = [*bundle(job)]
    # The largest nodes first: small ones are rarely of interest.
    ordered = sorted(nodes, key=lambda node: [-node.total.get(name, 0.0) for name in reversed(names)])
    lines = []
    for node in ordered[:_MAX_LINES]:
        free = [f"{node.available.get(name, 0.0):g} of {node.total.get(name, 0.0):g} {name}s" for name in names]
        lines.append(f"  {node.address}: {', '.join(free)} free")
    if len(ordered) > _MAX_LINES:
        lines.append(f"  and {len(ordered) - _MAX_LINES} more")
    return lines or ["  no node is alive"]


def shortage(job: Job, nodes: Sequence[Node], wait_s: float) -> tuple[str, int]:
    """A message that says why the job was not placed, and what to change; and the exit status of the driver."""
    able = num_able(job, nodes)
    head = f"asked for {asked(job)}; in {wait_s:g} s the cluster could not give that. Its nodes:"
    verb = "is" if able == 1 else "are"
    status = 1 if able >= job.num_nodes else EXIT_CONFIG
    if able >= job.num_nodes:
        advice = f"{able} node{'s' * (able > 1)} {verb} large enough, but not free: wait, or raise launch.ray.wait_s"
    else:
        advice = (
            f"{able} of {len(nodes)} nodes {verb} large enough: add nodes, or ask for less (cluster.num_nodes, "
            "cluster.gpus_per_node, launch.cpus_per_rank); the ranks of the layout change with the first two"
        )
    return "\n".join([head, *overview(job, nodes), advice]), status
