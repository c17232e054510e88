"""Sockets of a rank: their number grows with the logarithm of the number of ranks, and not with the number itself."""

import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks


def sockets_of_the_group_for_host_tensors() -> int:
    """Sockets that the group of all ranks adds to this process, after each kind of call that a run makes with it."""
    groups = init_groups(Layout(dp=int(os.environ["WORLD_SIZE"])), "cpu", timeout_s=120.0)
    before = num_sockets()
    group = dist.new_group(backend="gloo")
    objects = [None] * groups.layout.world_size
    dist.all_gather_object(objects, groups.rank, group=group)
    dist.all_reduce(torch.ones(3), group=group)
    dist.broadcast(torch.ones(3), 0, group=group)
    dist.barrier(group)
    added = num_sockets() - before
    destroy_groups()
    return added


def num_sockets() -> int:
    opened = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(path.readlink()).startswith("socket:") for path in opened)


def at_most(num_ranks: int) -> int:
    """Neighbours in a ring, and in trees of both directions, and one socket that listens."""
    return 3 + 2 * math.ceil(math.log2(num_ranks))


@pytest.mark.parametrize("num_ranks", [4, 8, pytest.param(16, marks=pytest.mark.long)])
def test_the_group_for_host_tensors_has_few_sockets(num_ranks: int, ranks: RunOnRanks) -> None:
    assert max(ranks(num_ranks, sockets_of_the_group_for_host_tensors)) <= at_most(num_ranks)


def test_512_ranks_need_far_fewer_sockets_than_a_process_may_open() -> None:
    assert at_most(512) < 300
