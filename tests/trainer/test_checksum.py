"""The checksum sees what ranks may differ in, and a finding names the rank that is not like the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.consistency import checksum as checksums
from foretrain.trainer.consistency.checksum import CURVATURE, checksum
from foretrain.trainer.consistency.findings import Claims, findings

DTYPES = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
    torch.int64: torch.int64,
    torch.uint8: torch.uint8,
    torch.bool: torch.uint8,
}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits, of any length and dtype, NaN and both zeros among them."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=2, max_size=40)))
    info = torch.iinfo(DTYPES[dtype])
    edges = st.sampled_from([0, 1, info.min, info.max])
    bits = draw(st.lists(edges | st.integers(info.min, info.max), min_size=2, max_size=40))
    return torch.tensor(bits, dtype=DTYPES[dtype]).view(dtype)


@given(tensors(), st.data())
def test_a_change_of_any_one_element_changes_the_checksum(tensor: torch.Tensor, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(tensor) - 1))
    changed = tensor.clone()
    bits = changed.view(DTYPES[tensor.dtype])
    num_bits = 1 if tensor.dtype == torch.bool else 8 * tensor.element_size()
    for bit in data.draw(st.sets(st.integers(0, num_bits - 1), min_size=1)):
        bits[place] ^= torch.tensor(1, dtype=bits.dtype) << bit
    assert checksum(changed) != checksum(tensor)


@given(tensors(), st.data())
def test_a_swap_of_two_unequal_elements_changes_the_checksum(tensor: torch.Tensor, data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(0, len(tensor) - 1)) for _ in range(2))
    swapped = tensor.clone()
    swapped[[first, second]] = tensor[[second, first]]
    bits = tensor.view(DTYPES[tensor.dtype])
    assert (checksum(swapped) == checksum(tensor)) == bool(bits[first] == bits[second])


@given(tensors(), st.integers(1, 50))
def test_the_checksum_is_that_of_its_definition_however_it_is_cut(tensor: torch.Tensor, chunk: int) -> None:
    parts = tensor.view(DTYPES[tensor.dtype])
    words = (parts.view(torch.int32) if parts.element_size() == 8 else parts).tolist()
    a = CURVATURE
    expected = sum(word * (1 + 2 * p + 4 * a * p * p) for p, word in enumerate(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "CHUNK", chunk)
        assert (int(checksum(tensor)) - expected) % 2**64 == 0


def test_two_errors_that_cancel_in_a_sum_change_the_checksum() -> None:
    tensor = torch.arange(100, dtype=torch.int32)
    changed = tensor.clone()
    changed[10] += 1
    changed[90] -= 1
    assert changed.sum() == tensor.sum() and checksum(changed) != checksum(tensor)


def test_a_far_swap_of_signs_changes_the_checksum() -> None:
    tensor = torch.zeros(2**22 + 1)
    tensor[0], tensor[-1] = 1.0, -1.0
    assert checksum(tensor) != checksum(-tensor)


def test_ranks_that_agree_are_not_named() -> None:
    assert findings([{"a": 1}, {"a": 1, "b": 2}, {"b": 2}], ["n0", "n0", "n1"]) == []


def test_the_minority_is_named_with_what_differs_and_a_tie_names_all() -> None:
    claims: list[Claims] = [
        {"a": 1, "step": "4"},
        {"a": 1, "step": "5"},
        {"a": 2, "step": "4"},
        {"b": 3},
        {"b": 4},
    ]
    assert findings(claims, ["n0", "n0", "n1", "n2", "n2"]) == [
        "rank 1 (node n0): step = 5 (most have 4)",
        "rank 2 (node n1): a",
        "ranks 3, 4, with no majority: b",
    ]


def test_a_rank_that_differs_in_everything_does_not_flood_the_message() -> None:
    keys = [f"p{number}" for number in range(100)]
    (line,) = findings([dict.fromkeys(keys, int(rank == 2)) for rank in range(5)], ["n"] * 5)
    assert line.endswith("p6, p7, and 92 more")
