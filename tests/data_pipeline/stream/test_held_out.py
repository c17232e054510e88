"""Held-out samples are windows spread evenly over the stream, the same at every evaluation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import UnreadableError
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.data_pipeline.stream.held_out import (
    NO_WINDOW,
    HeldOutSamples,
    documents_of,
    held_out,
    num_windows,
    spread,
)
from tests.data_pipeline.stream.memory_stream import EOT, MemoryStream

SEQ_LEN = 32


@given(num_samples=st.integers(0, 300), windows=st.integers(1, 10**12))
def test_samples_are_spread_evenly_from_end_to_end_and_no_window_is_taken_twice(num_samples: int, windows: int) -> None:
    numbers = spread(num_samples, windows)
    assert len(numbers) == min(num_samples, windows)
    if len(numbers):
        gaps = np.diff(np.r_[0, numbers, windows - 1])
        assert gaps[1:-1].min(initial=windows) >= 1 and np.ptp(gaps[1:-1]) <= 1 if len(numbers) > 1 else True
        half = windows // (2 * len(numbers))
        assert gaps[0] <= half and gaps[-1] <= half, "the ends are as near to a sample as the middle"


def test_all_windows_are_samples_if_as_many_or_more_are_asked_for() -> None:
    for windows in (1, 2, 7, 100):
        for more in (0, 1, 50):
            assert spread(windows + more, windows).tolist() == list(range(windows))
    assert spread(4, 100).tolist() == [12, 37, 62, 87]


def test_held_out_samples_are_windows_of_the_stream_in_its_order(corpus: Path) -> None:
    val = open_corpus(corpus, "val")
    windows = num_windows(val, SEQ_LEN)
    assert windows == (val.num_tokens - 1) // SEQ_LEN
    for asked in (0, 1, windows // 3, windows, windows + 50):
        batch = held_out(val, SEQ_LEN, asked)
        numbers = spread(asked, windows)
        assert batch.tokens_BL.shape == batch.targets_BL.shape == (len(numbers), SEQ_LEN)
        for row, number in enumerate(numbers.tolist()):
            assert np.array_equal(batch.tokens_BL[row], val.read(number * SEQ_LEN, SEQ_LEN))
            assert np.array_equal(batch.targets_BL[row], val.read(number * SEQ_LEN + 1, SEQ_LEN))
        assert batch.positions_BL is None and batch.num_padding == 0
        assert batch.samples_B is not None and batch.samples_B.tolist() == numbers.tolist()


def test_a_sample_that_is_no_window_carries_no_loss_and_the_others_are_as_without_it(corpus: Path) -> None:
    val = open_corpus(corpus, "val")
    samples = HeldOutSamples(val, SEQ_LEN, np.array([3, NO_WINDOW, 8, NO_WINDOW]), with_positions=True)
    batch, plain = samples.batch(slice(None)), HeldOutSamples(val, SEQ_LEN, np.array([3, 8]), with_positions=True)
    assert (batch.targets_BL[[1, 3]] == IGNORE).all()
    for name in ("tokens_BL", "targets_BL", "positions_BL", "samples_B"):
        assert np.array_equal(getattr(batch, name)[[0, 2]], getattr(plain.batch(slice(None)), name))
    assert (samples.batch(slice(2, 4)).targets_BL == batch.targets_BL[2:]).all()


def test_each_window_belongs_to_the_document_in_which_it_begins_across_shards() -> None:
    val = MemoryStream(Path("/nowhere"), [10, 3, 3, 20, 4, 41], cuts=[13, 50, 62])
    windows = np.arange(num_windows(val.as_stream(), 8))
    begins = [*val.starts.tolist(), 50, 62]
    expected = [max(begin for begin in begins if begin <= first) for first in range(0, 80, 8)]
    assert documents_of(val.as_stream(), 8, windows).tolist() == expected
    assert documents_of(val.as_stream(), 8, windows[[9, 2]]).tolist() == [expected[9], expected[2]]


def test_a_split_shorter_than_a_window_is_one_sample_whose_padding_carries_no_loss() -> None:
    val = MemoryStream(Path("/nowhere"), [3, 2])
    text = val.read(0, 5)
    for seq_len in (5, 6, 64):
        batch = held_out(val.as_stream(), seq_len, 5)
        assert batch.tokens_BL.shape == batch.targets_BL.shape == (1, seq_len)
        assert np.array_equal(batch.tokens_BL[0, :5], text)
        assert (batch.tokens_BL[0, 5:] == EOT).all()
        assert np.array_equal(batch.targets_BL[0, :4], text[1:])
        assert (batch.targets_BL[0, 4:] == IGNORE).all()
        assert batch.num_padding == (batch.targets_BL == IGNORE).sum()
    assert held_out(val.as_stream(), 4, 5).num_padding == 0  # exactly one full window


def test_positions_restart_at_each_document() -> None:
    val = MemoryStream(Path("/nowhere"), [3, 2, 4])
    batch = held_out(val.as_stream(), 8, 5, with_positions=True)
    assert batch.tokens_BL.tolist() == [[1, 2, EOT, 4, EOT, 6, 7, 8]]
    assert batch.positions_BL is not None and batch.positions_BL.tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]


def test_windows_that_cannot_be_read_are_an_error() -> None:
    val = MemoryStream(Path("/nowhere"), [100], unreadable_from=90)
    held_out(val.as_stream(), 8, 3)
    with pytest.raises(UnreadableError):
        held_out(val.as_stream(), 8, 12)
