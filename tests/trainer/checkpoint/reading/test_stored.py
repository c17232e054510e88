"""The place of the elements in what torch.save writes is known, and each needed byte gets to its own place."""

import io
import struct
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foretrain.trainer.checkpoint.reading.stored import Wanted, place_of_elements

SHAPES = st.lists(st.integers(1, 400), min_size=1, max_size=4).map(tuple).filter(lambda shape: prod(shape) < 100_000)


def written(tensor: Tensor) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


def place_in_zip(content: bytes) -> int:
    """Where the elements are, as the list at the end of a zip file says it."""
    header = zipfile.ZipFile(io.BytesIO(content)).getinfo("archive/data/0").header_offset
    return header + 30 + sum(struct.unpack_from("<HH", content, header + 26))


@given(SHAPES)
def test_the_place_of_the_elements_is_known_without_reading(shape: tuple[int, ...]) -> None:
    content = written(torch.zeros(shape))
    assert place_of_elements(shape, len(content)) == place_in_zip(content)
    assert place_of_elements(shape, len(content) + 1) is None


def test_no_memory_is_needed_to_know_the_place_in_a_large_tensor() -> None:
    content = written(torch.zeros(3_000_000))
    assert place_of_elements([3_000_000], len(content)) == place_in_zip(content)
    assert place_of_elements([2**34], 4 * 2**34) is None  # 64 GiB, which would not fit


@dataclass(frozen=True)
class Case:
    """A box of a stored tensor, and a file that is read in parts."""

    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    before: int
    """Bytes of the file before the tensor."""
    cuts: list[int]
    """Where one part of the file ends, and the next one begins."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A box of a tensor of up to four dimensions."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    offsets = tuple(draw(st.integers(0, size - 1)) for size in shape)
    lengths = tuple(draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True))
    cuts = draw(st.lists(st.integers(1, 2000 + 4 * prod(shape)), max_size=20, unique=True).map(sorted))
    return Case(shape, offsets, lengths, draw(st.integers(0, 70)), cuts)


def parts(case: Case, tensor: Tensor) -> list[tuple[int, Tensor]]:
    """The parts of a file with the tensor, each with the number of its first byte."""
    file = torch.frombuffer(bytearray(case.before) + written(tensor) + bytes(40), dtype=torch.uint8)
    ends = [0, *(cut for cut in case.cuts if cut < len(file)), len(file)]
    return [(first, file[first:stop]) for first, stop in pairwise(ends)]


def wanted(case: Case, target: Tensor, moved: int = 0) -> Wanted:
    """What is wanted of the file; `moved`: by how many bytes too late the elements are expected."""
    place = place_of_elements(case.shape, len(written(torch.zeros(case.shape))))
    assert place is not None
    first = case.before + place + moved
    return Wanted.of(case.before, first, case.shape, case.offsets, case.lengths, target)


@given(cases(), st.randoms())
def test_a_box_is_complete_after_all_parts_of_its_file_were_read_in_any_order(case: Case, random: object) -> None:
    """The parts may end inside an element. What is around the target stays as it is."""
    tensor = torch.arange(1, prod(case.shape) + 1, dtype=torch.float32).view(case.shape)
    around = torch.zeros([length + 2 for length in case.lengths])
    target = around[tuple(slice(1, -1) for _ in case.lengths)]
    each = wanted(case, target)
    first, stop = each.span
    needed = [(start, part) for start, part in parts(case, tensor) if start < stop and start + len(part) > first]
    random.shuffle(needed)  # type: ignore[attr-defined]
    for start, part in needed:
        each.take(start, part)
    box = tuple(slice(offset, offset + length) for offset, length in zip(case.offsets, case.lengths, strict=True))
    assert torch.equal(target, tensor[box])
    assert torch.count_nonzero(around) == target.numel()


def test_elements_that_are_elsewhere_in_the_file_are_not_taken() -> None:
    case = Case((5, 7), (0, 0), (5, 7), before=3, cuts=[])
    ((start, part),) = parts(case, torch.ones(case.shape))
    with pytest.raises(ValueError, match="in an unknown form"):
        wanted(case, torch.zeros(case.shape), moved=64).take(start, part)
