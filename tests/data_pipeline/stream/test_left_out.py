"""A run trains on every global sample in its order, but for those that are left out."""

from itertools import count, islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.stream.left_out import LeftOut

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


@given(RANGES)
def test_the_numbers_are_all_but_those_in_a_range_in_their_order(ranges: list[tuple[int, int]]) -> None:
    left_out = LeftOut.of(ranges)
    kept = (g for g in count() if not any(start <= g < end for start, end in ranges))
    assert left_out.numbers(np.arange(100)).tolist() == list(islice(kept, 100))
    assert left_out.count == sum(any(start <= g < end for start, end in ranges) for g in range(60))


@given(RANGES, st.integers(0, 100))
def test_what_is_consumed_before_a_sample_is_the_inverse(ranges: list[tuple[int, int]], g: int) -> None:
    left_out = LeftOut.of(ranges)
    before = left_out.consumed_before(g)
    if any(start <= g < end for start, end in ranges):
        assert before is None
    else:
        assert before is not None
        assert left_out.number(before) == g


@given(RANGES, RANGES)
def test_ranges_that_are_added_later_give_the_same_union(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    assert LeftOut.of([*LeftOut.of(first).ranges, *second]) == LeftOut.of([*second, *first])
