"""The split of blocks over stages is the best there is."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.parallel.balance import split
from foretrain.parallel.layout import Layout

SCHEDULES = {"1f1b": 1, "interleaved_1f1b": 2, "interleaved_zb": 3, "zbv": 2}


def quality(sizes: Sequence[int], block: float, first: float, last: float, holders: Sequence[int]) -> tuple[Any, Any]:
    """(largest load of a rank, sum of squared loads of stages): what a split minimises, in this order."""
    loads = [block * size for size in sizes]
    loads[0] += first
    loads[-1] += last
    ranks = [sum(load for load, holder in zip(loads, holders, strict=True) if holder == rank) for rank in set(holders)]
    return max(ranks), sum(load * load for load in loads)


def all_splits(num_layers: int, num_stages: int) -> Iterator[list[int]]:
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        yield [end - start for start, end in pairwise((0, *cuts, num_layers))]


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    """Blocks and costs, in whole numbers so that sums are exact, on any ranks whatever."""
    num_stages = draw(st.integers(1, 5))
    costs = {"block": draw(st.integers(1, 6)), "first": draw(st.integers(0, 20)), "last": draw(st.integers(0, 30))}
    holders = draw(st.lists(st.integers(0, 3), min_size=num_stages, max_size=num_stages))
    return draw(st.integers(num_stages, 10)), costs | {"holders": holders}


@given(problems())
def test_no_other_split_is_better(problem: tuple[int, dict[str, Any]]) -> None:
    num_layers, costs = problem
    num_stages = len(costs["holders"])
    chosen = split(num_layers, num_stages, **costs)
    assert len(chosen) == num_stages and sum(chosen) == num_layers and min(chosen) >= 1
    assert quality(chosen, **costs) == min(quality(other, **costs) for other in all_splits(num_layers, num_stages))


def test_a_split_that_overlooks_which_rank_holds_a_stage_is_seen_to_be_worse() -> None:
    costs: dict[str, Any] = {"block": 1, "first": 0, "last": 5}
    v_shape = [0, 1, 1, 0]
    best, planted = (split(8, 4, **costs, holders=holders) for holders in (v_shape, range(4)))
    assert quality(best, **costs, holders=v_shape) < quality(planted, **costs, holders=v_shape)


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(2, 6),
    st.integers(0, 40),
    st.floats(0.01, 10),
    st.floats(0, 30),
    st.floats(0, 30),
)
def test_measured_costs_leave_no_rank_that_could_hand_a_block_on(
    schedule: str, pp: int, more: int, block: float, first: float, last: float
) -> None:
    layout = Layout(pp=pp, vpp=SCHEDULES[schedule], schedule=schedule)
    holders = [layout.stage_to_pp_rank(stage) for stage in range(layout.num_stages)]
    costs: dict[str, Any] = {"block": block, "first": first, "last": last, "holders": holders}
    sizes = split(layout.num_stages + more, layout.num_stages, **costs)
    peak, _ = quality(sizes, **costs)
    for giver in range(layout.num_stages):
        for taker in range(layout.num_stages):
            moved = [size + (stage == taker) - (stage == giver) for stage, size in enumerate(sizes)]
            assert min(moved) < 1 or quality(moved, **costs)[0] >= peak * (1 - 1e-9)


@pytest.mark.parametrize(
    ("num_layers", "last", "sizes"),
    [(8, 0, [2, 2, 2, 2]), (8, 1, [2, 3, 2, 1]), (8, 4, [2, 3, 2, 1]), (9, 0, [2, 3, 2, 2]), (6, 0, [1, 2, 2, 1])],
)
def test_of_equally_good_splits_the_middle_takes_more(num_layers: int, last: float, sizes: list[int]) -> None:
    assert split(num_layers, 4, block=1, first=0, last=last, holders=range(4)) == sizes


def test_a_deep_model_is_split_over_many_stages() -> None:
    sizes = split(128, 64, block=1.0, first=0.1, last=2.5, holders=[stage % 32 for stage in range(64)])
    assert sum(sizes) == 128
