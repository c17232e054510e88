"""A contiguous range of a tensor's elements, as boxes of the tensor. Pure arithmetic.

ZeRO gives each replica a range of a flattened parameter, and torch.distributed.checkpoint stores boxes of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Box:
    """A box of a tensor, whose elements are neighbours in the flattened tensor."""

    offsets: tuple[int, ...]
    """Its first index along each dimension."""
    sizes: tuple[int, ...]
    """Its length along each dimension."""

    @property
    def num_elements(self) -> int:
        """Number of its elements."""
        return prod(self.sizes)

    def moved(self, dim: int, distance: int) -> "Box":
        """The box `distance` further along a dimension, as in a tensor of which this one is a part."""
        offsets = [each + distance * (number == dim) for number, each in enumerate(self.offsets)]
        return Box(tuple(offsets), self.sizes)


def boxes_of(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The fewest boxes that hold the elements `start` to `stop` of a row-major tensor, in the order of the elements.

    A range of a matrix has at most three: the end of a row, complete rows, and the beginning of a row.
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield Box((start,), (stop - start,))
        return
    rows, row_size = shape[1:], prod(shape[1:])
    (first, skipped), (last, left) = divmod(start, row_size), divmod(stop, row_size)
    if first == last:
        yield from _inside(first, boxes_of(rows, skipped, left))
        return
    if skipped:
        yield from _inside(first, boxes_of(rows, skipped, row_size))
        first += 1
    if first < last:
        yield Box((first, *(0 for _ in rows)), (last - first, *rows))
    yield from _inside(last, boxes_of(rows, 0, left))


def _inside(row: int, boxes: Iterator[Box]) -> Iterator[Box]:
    """Boxes of one row, as boxes of the tensor."""
    return (Box((row, *box.offsets), (1, *box.sizes)) for box in boxes)
