"""How many blocks each pipeline stage holds, so that the slowest rank is as fast as can be. Pure arithmetic."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace


def split(
    num_layers: int, num_stages: int, *, block: float, first: float, last: float, holders: Sequence[int]
) -> list[int]:
    """Blocks of each stage, at least one.

    A block costs `block`; the first stage carries `first` besides its blocks, the last one `last`; `holders[stage]` is
    the pipeline rank of a stage. The result is exact: among all splits it has the smallest largest load of a rank (the
    sum over its stages); among those, the smallest sum of squared loads of stages; and where that leaves a choice,
    the stages nearest to the middle hold more, of two equally near the lower one.

    Both steps are greedy. The lowest peak: each block to the rank with the least load. Under that peak: each block to
    the stage with the least load whose rank has room, since a square grows with its base; a greedy choice is optimal
    for a sum of convex costs where the bounds are on disjoint sums (Federgruen and Groenevelt, Operations Research 34,
    1986).
    """
    assert num_layers >= num_stages == len(holders) and block > 0 and min(first, last) >= 0
    carried = [0.0] * num_stages
    carried[0] += first
    carried[-1] += last
    carried_by, blocks_of = dict.fromkeys(holders, 0.0), dict.fromkeys(holders, 0)
    for stage, rank in enumerate(holders):
        carried_by[rank] += carried[stage]
        blocks_of[rank] += 1
    spare = num_layers - num_stages
    peak = _lowest_peak(spare, block, carried_by, blocks_of)

    sizes = [1] * num_stages
    queue = [(carried[s] + block, abs(2 * s - (num_stages - 1)), s) for s in range(num_stages)]
    heapify(queue)
    while spare:
        _, from_middle, stage = heappop(queue)
        rank = holders[stage]
        if carried_by[rank] + block * (blocks_of[rank] + 1) > peak:
            continue  # full for good
        blocks_of[rank] += 1
        sizes[stage] += 1
        spare -= 1
        heappush(queue, (carried[stage] + block * sizes[stage], from_middle, stage))
    return sizes


def _lowest_peak(spare: int, block: float, carried_by: dict[int, float], blocks_of: dict[int, int]) -> float:
    """The smallest largest load of a rank, once `spare` more blocks are given out."""
    blocks_of = dict(blocks_of)
    queue = [(carried + block * blocks_of[rank], rank) for rank, carried in carried_by.items()]
    heapify(queue)
    for _ in range(spare):
        _, rank = queue[0]
        blocks_of[rank] += 1
        heapreplace(queue, (carried_by[rank] + block * blocks_of[rank], rank))
    return max(queue)[0]
