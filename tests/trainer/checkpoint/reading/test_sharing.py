"""Ranks of a machine read every block that one of them needs once, and each gets what it needs and no more."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.checkpoint.reading.sharing import RUN_BLOCKS, Range, plan_runs, ranges_of, rounds_of

Blocks = dict[str, set[int]]
NEEDS = st.lists(st.dictionaries(st.sampled_from("abc"), st.sets(st.integers(0, 40))), min_size=1, max_size=5)
"""The blocks of each file that each rank needs."""


def in_ranges(needs: list[Blocks]) -> list[dict[str, list[Range]]]:
    return [{file: ranges_of(blocks) for file, blocks in need.items()} for need in needs]


@given(st.sets(st.integers(0, 50)))
def test_ranges_hold_the_blocks_and_do_not_touch_each_other(blocks: set[int]) -> None:
    ranges = ranges_of(blocks)
    assert [block for first, stop in ranges for block in range(first, stop)] == sorted(blocks)
    assert all(stop < following for (_, stop), (following, _) in pairwise(ranges))


@given(NEEDS)
def test_each_block_is_read_once_by_a_rank_that_needs_it_and_all_that_need_it_get_it(needs: list[Blocks]) -> None:
    times_read: Counter[tuple[str, int]] = Counter()
    got: list[Blocks] = [{file: set() for file in need} for need in needs]
    for run in plan_runs(in_ranges(needs)):
        assert 0 < run.stop - run.first <= RUN_BLOCKS
        times_read.update((run.file, block) for block in range(run.first, run.stop))
        for member in (run.reader, *run.receivers):
            got[member][run.file].update(range(run.first, run.stop))
    assert got == needs
    assert set(times_read.values()) <= {1}


@given(NEEDS)
def test_a_rank_reads_once_in_a_round_and_rounds_have_all_that_is_sent_in_order(needs: list[Blocks]) -> None:
    runs = plan_runs(in_ranges(needs))
    rounds = list(rounds_of(runs))
    assert [run for each in rounds for run in each] == [run for run in runs if run.receivers]
    assert all(len({run.reader for run in each}) == len(each) for each in rounds)


def test_what_all_ranks_need_is_divided_evenly_and_read_at_the_same_time() -> None:
    everything = ranges_of(range(1000))
    rounds = list(rounds_of(plan_runs([{"a": everything}] * 8)))
    assert [len(each) for each in rounds[:-1]] == [8] * (len(rounds) - 1)
    assert len(rounds) == -(-1000 // (8 * RUN_BLOCKS))
