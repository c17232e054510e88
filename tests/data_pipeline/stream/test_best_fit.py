"""Best-fit packing has the bins of a plain best-fit decreasing, and no token is lost or doubled."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.stream.best_fit import count_up, cut_into_pieces, pack


@st.composite
def pieces_to_pack(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Lengths of pieces, and a seq_len that is at least as long as each; often few distinct lengths."""
    seq_len = draw(st.integers(1, 64))
    some = draw(st.lists(st.integers(1, seq_len), min_size=1, max_size=12))
    lengths = draw(st.lists(st.sampled_from(some) | st.integers(1, seq_len), min_size=1, max_size=150))
    return np.array(lengths, dtype=np.int64), seq_len


def _naive_rooms(lengths: np.ndarray, seq_len: int) -> list[int]:
    """The room left in each sample by best-fit decreasing, piece by piece."""
    rooms: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fits = [room for room in rooms if room >= length]
        if fits:
            rooms[rooms.index(min(fits))] -= length
        else:
            rooms.append(seq_len - length)
    return sorted(rooms)


@given(pieces_to_pack())
def test_the_samples_are_those_of_best_fit_decreasing(problem: tuple[np.ndarray, int]) -> None:
    lengths, seq_len = problem
    pieces, offsets = pack(lengths, seq_len)
    rooms = seq_len - np.add.reduceat(lengths[pieces], offsets[:-1])
    assert sorted(rooms.tolist()) == _naive_rooms(lengths, seq_len)


@given(pieces_to_pack())
def test_no_sample_is_opened_while_another_has_room(problem: tuple[np.ndarray, int]) -> None:
    lengths, seq_len = problem
    pieces, offsets = pack(lengths, seq_len)
    samples = [lengths[pieces[a:b]] for a, b in pairwise(offsets)]
    for opened in samples:
        for other in samples:
            if other[0] > opened[0]:  # was there before
                longer = other[other > opened[0]]
                assert seq_len - longer.sum() < opened[0] or (other[len(longer) :] == opened[0]).any()


@given(pieces_to_pack())
def test_each_piece_is_in_one_sample_and_no_sample_is_overfull(problem: tuple[np.ndarray, int]) -> None:
    lengths, seq_len = problem
    pieces, offsets = pack(lengths, seq_len)
    assert np.array_equal(np.sort(pieces), np.arange(len(lengths)))
    assert offsets[0] == 0 and offsets[-1] == len(lengths) and (np.diff(offsets) > 0).all()
    assert np.add.reduceat(lengths[pieces], offsets[:-1]).max() <= seq_len


@given(pieces_to_pack())
def test_samples_are_in_the_order_of_their_first_and_longest_pieces(problem: tuple[np.ndarray, int]) -> None:
    lengths, seq_len = problem
    pieces, offsets = pack(lengths, seq_len)
    assert (np.diff(pieces[offsets[:-1]]) > 0).all()
    for a, b in pairwise(offsets):
        assert (np.diff(lengths[pieces[a:b]]) <= 0).all()


def test_lengths_that_are_too_long_for_radix_sort_are_packed_in_the_same_way() -> None:
    lengths = np.random.default_rng(0).integers(1, 70_001, 500)
    pieces, offsets = pack(lengths, 70_000)
    rooms = 70_000 - np.add.reduceat(lengths[pieces], offsets[:-1])
    assert sorted(rooms.tolist()) == _naive_rooms(lengths, 70_000)


def test_no_pieces_need_no_samples() -> None:
    pieces, offsets = pack(np.empty(0, dtype=np.int64), 8)
    assert len(pieces) == 0
    assert offsets.tolist() == [0]


@pytest.mark.parametrize("wrong", [0, 9])
def test_a_piece_longer_than_a_sample_or_empty_is_refused(wrong: int) -> None:
    with pytest.raises(AssertionError, match="not of 1 to 8"):
        pack(np.array([3, wrong]), 8)


@given(
    doc_lens=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    seq_len=st.integers(1, 20),
    data=st.data(),
)
def test_neighbouring_ranges_have_each_piece_of_each_document_once(
    doc_lens: list[int], seq_len: int, data: st.DataObject
) -> None:
    ends = np.cumsum(np.array(doc_lens, dtype=np.int64))
    starts, num_tokens = ends - np.array(doc_lens), int(ends[-1])
    cuts = sorted(data.draw(st.lists(st.integers(0, num_tokens), max_size=4)))
    edges = [0, *cuts, num_tokens]
    expected = [
        (at, min(seq_len, end - at))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for at in range(start, end, seq_len)
    ]
    found: list[tuple[int, int]] = []
    for first, end in pairwise(edges):
        piece_starts, lengths = cut_into_pieces(starts, ends, seq_len, first, end)
        assert ((piece_starts >= first) & (piece_starts < end)).all()
        found += zip(piece_starts.tolist(), lengths.tolist(), strict=True)
    assert found == expected


@given(st.lists(st.integers(0, 5), max_size=10))
def test_count_up_counts_up_in_each_group(counts: list[int]) -> None:
    assert count_up(np.array(counts, dtype=np.int64)).tolist() == [i for count in counts for i in range(count)]


def test_the_arithmetic_imports_neither_files_nor_torch() -> None:
    heavy = (
        "torch",
        "tokenizers",
        "rich",
        "foretrain.data_pipeline.corpus.shards",
        "foretrain.data_pipeline.stream.best_fit_plan",
    )
    code = f"import sys, foretrain.data_pipeline.stream.best_fit; print([m for m in sys.modules if m in {heavy}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
