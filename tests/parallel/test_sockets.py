"""Process groups cost a rank few sockets and threads, however many ranks there are and however often they are made."""

import math
import os
import time
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


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def threads_after_each_layout() -> list[int]:
    """Threads of this process after each of several layouts, each of which takes the place of the one before."""
    found: list[int] = []
    for layout in [Layout(dp=2), Layout(tp=2), Layout(pp=2)] * 3:
        groups = init_groups(layout, "cpu", timeout_s=60.0)
        for group in (groups.tp, groups.cp, groups.pp, groups.replicas):
            dist.all_reduce(torch.ones(3), group=group)
        deadline_s = time.monotonic() + 10
        while len(found) >= 3 and num_threads() > found[-3] and time.monotonic() < deadline_s:
            time.sleep(0.01)  # a thread that has ended is listed for a moment
        found.append(num_threads())
    destroy_groups()
    return found


def test_a_layout_ends_the_groups_of_the_layout_before_it(ranks: RunOnRanks) -> None:
    threads = ranks(2, threads_after_each_layout)[0]
    assert all(last <= first for last, first in zip(threads[-3:], threads[:3], strict=True))


def groups_that_are_one() -> int:
    """How many pairs of the groups that exchange tensors of a step are the same object, in a layout of one rank."""
    groups = init_groups(Layout(), "cpu", timeout_s=60.0)
    used = [groups.tp, groups.cp, groups.pp, groups.replicas]
    destroy_groups()
    return len(used) - len(set(used))


def test_groups_of_different_kinds_are_different_also_if_they_have_the_same_ranks(ranks: RunOnRanks) -> None:
    assert ranks(1, groups_that_are_one) == [0]
