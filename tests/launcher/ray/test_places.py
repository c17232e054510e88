"""Ranks and their places: the same ones, in whatever order Ray starts the actors."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.launcher.ray.places import Place, assign, rank_env

ADDRESSES = st.sampled_from(["10.0.0.2", "10.0.0.10", "192.0.2.1", "fe80::1", "node-a"])
NODES = st.lists(st.tuples(ADDRESSES, st.uuids().map(str)), min_size=1, max_size=5, unique_by=lambda node: node[1])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Place], int]:
    """Places of a job, in any order, and the number of ranks of a node."""
    ranks_per_node, with_gpus = draw(st.integers(1, 4)), draw(st.booleans())
    places = []
    for ip, node in draw(NODES):
        gpus = draw(st.permutations(range(12)))[:ranks_per_node]
        places += [Place(ip, node, (str(gpu),) if with_gpus else (), 100 + i) for i, gpu in enumerate(gpus)]
    return draw(st.permutations(places)), ranks_per_node


@given(clusters(), st.randoms())
def test_the_order_of_the_actors_does_not_matter(cluster: tuple[list[Place], int], random) -> None:  # type: ignore[no-untyped-def]
    places, ranks_per_node = cluster
    shuffled = random.sample(places, len(places))
    first, second = assign(places, ranks_per_node), assign(shuffled, ranks_per_node)
    assert [rank.place for rank in first] == [rank.place for rank in second]
    assert [shuffled[rank.actor] for rank in second] == [rank.place for rank in second]


@given(clusters())
def test_the_ranks_of_a_node_follow_one_another(cluster: tuple[list[Place], int]) -> None:
    places, ranks_per_node = cluster
    ranks = assign(places, ranks_per_node)
    assert [rank.rank for rank in ranks] == [*range(len(places))]
    assert sorted(rank.actor for rank in ranks) == [*range(len(places))]
    nodes = [[*group] for _, group in groupby(ranks, key=lambda rank: rank.place.node_id)]
    assert len(nodes) == len(places) // ranks_per_node
    for node in nodes:
        assert [rank.local_rank for rank in node] == [*range(ranks_per_node)]


@given(clusters())
def test_a_local_rank_counts_in_the_devices_that_it_sees(cluster: tuple[list[Place], int]) -> None:
    places, ranks_per_node = cluster
    for rank in assign(places, ranks_per_node):
        env = rank_env(rank, len(places), ranks_per_node, ("10.0.0.2", 20_000))
        if rank.place.devices:
            assert env["CUDA_VISIBLE_DEVICES"].split(",")[int(env["LOCAL_RANK"])] == rank.place.devices[0]
        else:
            assert "CUDA_VISIBLE_DEVICES" not in env


def test_nodes_and_devices_are_counted_as_numbers() -> None:
    places = [Place(ip, ip, (gpu,), 1) for ip in ("10.0.0.10", "10.0.0.9") for gpu in ("10", "9")]
    ranks = assign(places, 2)
    assert [(rank.place.node_ip, rank.place.devices) for rank in ranks] == [
        *(("10.0.0.9", ("9",)), ("10.0.0.9", ("10",)), ("10.0.0.10", ("9",)), ("10.0.0.10", ("10",)))
    ]


def test_a_rank_gets_its_place_and_no_more() -> None:
    ranks = assign([Place("10.0.0.3", "b", ("GPU-x",), 1), Place("10.0.0.2", "a", ("GPU-y",), 1)], 1)
    assert rank_env(ranks[1], 2, 1, ("10.0.0.2", 20_000)) == {
        "CUDA_VISIBLE_DEVICES": "GPU-x",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "10.0.0.2",
        "MASTER_PORT": "20000",
    }


def test_actors_that_are_not_where_they_belong_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"2 actors on node 10\.0\.0\.2, and not 1"):
        assign([Place("10.0.0.2", "a", (), 1), Place("10.0.0.2", "a", (), 2)], 1)
