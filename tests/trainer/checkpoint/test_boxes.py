"""A range of a flattened tensor is a few boxes of it, and nothing else."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from foretrain.trainer.checkpoint.boxes import Box, boxes_of

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    """A shape, and the start and the stop of a range of its elements, which may be empty."""
    shape = draw(SHAPES)
    start, stop = sorted(draw(st.integers(0, prod(shape))) for _ in range(2))
    return shape, start, stop


def numbered(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """A tensor whose elements are their own numbers."""
    return np.arange(prod(shape), dtype=np.int64).reshape(shape)


def elements(box: Box, tensor: NDArray[np.int64]) -> list[int]:
    """The elements of a box, which must not reach beyond the tensor, in their order."""
    ends = [offset + size for offset, size in zip(box.offsets, box.sizes, strict=True)]
    assert all(end <= length for end, length in zip(ends, tensor.shape, strict=True))
    part = tensor[tuple(slice(offset, end) for offset, end in zip(box.offsets, ends, strict=True))]
    return [int(each) for each in part.ravel()]


@given(ranges())
def test_boxes_hold_each_element_of_the_range_once_and_in_order(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = case
    found = [element for box in boxes_of(shape, start, stop) for element in elements(box, numbered(shape))]
    assert found == list(range(start, stop))


@given(ranges())
def test_a_range_has_at_most_two_boxes_for_each_dimension_but_one(case: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = case
    boxes = list(boxes_of(shape, start, stop))
    assert len(boxes) <= 2 * len(shape) - 1
    assert all(box.num_elements for box in boxes)
    assert sum(box.num_elements for box in boxes) == stop - start


@given(SHAPES)
def test_a_complete_tensor_is_one_box(shape: tuple[int, ...]) -> None:
    assert list(boxes_of(shape, 0, prod(shape))) == [Box((0,) * len(shape), shape)]


@given(ranges(), st.data())
def test_a_moved_box_holds_the_same_elements_in_a_tensor_of_which_its_own_is_a_part(
    case: tuple[tuple[int, ...], int, int], data: st.DataObject
) -> None:
    shape, start, stop = case
    dim = data.draw(st.integers(0, len(shape) - 1))
    before, after = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    around = [(before, after) if number == dim else (0, 0) for number in range(len(shape))]
    larger = np.pad(numbered(shape), around, constant_values=-1)
    for box in boxes_of(shape, start, stop):
        assert elements(box.moved(dim, before), larger) == elements(box, numbered(shape))
