"""Which rank runs where: from the places of the actors to the environments of the ranks. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Place:
    """The node and the GPUs of an actor."""

    node_ip: str
    node_id: str
    """Ray's id of the node: several nodes may share an address."""
    devices: tuple[str, ...]
    """Its GPUs, as CUDA_VISIBLE_DEVICES names them."""
    pid: int


@dataclass(frozen=True)
class Assigned:
    """A rank and the actor that starts it."""

    actor: int
    """Its number in the list of places."""
    rank: int
    local_rank: int
    place: Place
    node_devices: tuple[str, ...]
    """The GPUs of all ranks of the node; the local rank is an index into them."""


def assign(places: Sequence[Place], ranks_per_node: int) -> list[Assigned]:
    """Number the actors by node, and on a node by device; the i-th result is rank i.

    Raises ValueError if a node does not have `ranks_per_node` actors.
    """
    nodes: dict[tuple, list[int]] = defaultdict(list)
    for actor, place in enumerate(places):
        nodes[_node_key(place)].append(actor)
    assigned: list[Assigned] = []
    for _, actors in sorted(nodes.items()):
        ordered = sorted(actors, key=lambda actor: _device_key(places[actor]))
        if len(ordered) != ranks_per_node:
            node = places[ordered[0]]
            raise ValueError(f"Ray put {len(ordered)} actors on node {node.node_ip}, and not {ranks_per_node}")
        devices = tuple(device for actor in ordered for device in places[actor].devices)
        for local_rank, actor in enumerate(ordered):
            assigned.append(Assigned(actor, len(assigned), local_rank, places[actor], devices))
    return assigned


def rank_env(assigned: Assigned, num_ranks: int, ranks_per_node: int, master: tuple[str, int]) -> dict[str, str]:
    """The variables of a rank that say where it is, as torch.distributed's env:// reads them.

    master: the address and the port of rank 0's store.
    """
    env = {"RANK": str(assigned.rank), "WORLD_SIZE": str(num_ranks)}
    env |= {"LOCAL_RANK": str(assigned.local_rank), "LOCAL_WORLD_SIZE": str(ranks_per_node)}
    env |= {"MASTER_ADDR": master[0], "MASTER_PORT": str(master[1])}
    if assigned.node_devices:
        # Ray shows each actor its own GPU alone, but the ranks of a node need to reach each other's.
        env["CUDA_VISIBLE_DEVICES"] = ",".join(assigned.node_devices)
    return env


def _node_key(place: Place) -> tuple:
    try:
        address = ip_address(place.node_ip)
    except ValueError:
        return (0, 0, place.node_ip, place.node_id)
    return (address.version, int(address), "", place.node_id)


def _device_key(place: Place) -> tuple:
    # GPU 10 comes after GPU 9; names such as GPU-ab12 or MIG-ab12 have no numbers.
    numbers = [(int(device), "") if device.isdecimal() else (-1, device) for device in place.devices]
    return (numbers, place.pid)
