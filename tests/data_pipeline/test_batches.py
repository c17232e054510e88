"""Batches: the same samples in the same order for every number of ranks, and nothing lost to reading ahead."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.batches import IGNORE, Batch, Batches, Prefetcher, held_out
from data_pipeline.errors import CorpusError
from data_pipeline.order import sample_at
from data_pipeline.prepare import prepare
from data_pipeline.shards import TokenStream, open_corpus

SEQ_LEN = 32


def global_batch(stream: TokenStream, size: int, dp_size: int, samples_consumed: int, seed: int = 0) -> np.ndarray:
    """What all ranks together read, in the order of ranks."""
    ranks = [Batches(stream, SEQ_LEN, size, rank, dp_size, seed) for rank in range(dp_size)]
    return np.concatenate([rank.batch(samples_consumed)[0] for rank in ranks])


@given(
    size=st.sampled_from([1, 4, 12, 24]),
    seed=st.integers(0, 2**31),
    first=st.integers(0, 10_000),
    data=st.data(),
)
def test_the_ranks_together_read_what_one_process_reads_also_when_their_number_changes(
    stream: TokenStream, size: int, seed: int, first: int, data: st.DataObject
) -> None:
    num_steps = 6
    divisors = [dp for dp in range(1, size + 1) if size % dp == 0]
    alone = Batches(stream, SEQ_LEN, size, 0, 1, seed)
    dp_size = data.draw(st.sampled_from(divisors))
    change_at = data.draw(st.integers(0, num_steps))
    for step in range(num_steps):
        if step == change_at:
            dp_size = data.draw(st.sampled_from(divisors))
        consumed = first + step * size
        assert np.array_equal(global_batch(stream, size, dp_size, consumed, seed), alone.batch(consumed)[0])


@given(samples_consumed=st.integers(0, 5000), seed=st.integers(0, 100))
def test_a_batch_is_the_windows_that_the_order_names_with_targets_one_further_on(
    stream: TokenStream, samples_consumed: int, seed: int
) -> None:
    tokens_BL, targets_BL = Batches(stream, SEQ_LEN, 8, 1, 2, seed).batch(samples_consumed)
    assert tokens_BL.shape == targets_BL.shape == (4, SEQ_LEN)
    assert tokens_BL.dtype == targets_BL.dtype == np.int64
    g = samples_consumed + 4 + np.arange(4)
    assert not np.shares_memory(tokens_BL, targets_BL)
    _, windows = sample_at(g, stream.num_samples(SEQ_LEN), seed)
    for row, window in enumerate(windows):
        expected = stream.window(int(window), SEQ_LEN)
        assert np.array_equal(tokens_BL[row], expected[:-1])
        assert np.array_equal(targets_BL[row], expected[1:])


def test_one_epoch_reads_every_window_once(stream: TokenStream) -> None:
    num_samples = stream.num_samples(SEQ_LEN)
    epoch = Batches(stream, SEQ_LEN, num_samples, 0, 1, seed=3).batch(0)[0]
    windows = np.stack([stream.window(i, SEQ_LEN)[:-1] for i in range(num_samples)])
    assert sorted(map(bytes, epoch)) == sorted(map(bytes, windows.astype(np.int64)))


def test_an_uneven_deal_and_a_short_stream_are_refused(stream: TokenStream) -> None:
    with pytest.raises(ValueError, match="global_batch_size = 10 is not a multiple of dp = 4"):
        Batches(stream, SEQ_LEN, 10, 0, 4, seed=0)
    with pytest.raises(CorpusError, match="shorten seq_len"):
        Batches(stream, 10**9, 8, 0, 1, seed=0)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_hands_out_the_same_batches_and_counts_only_those(stream: TokenStream, depth: int) -> None:
    batches = Batches(stream, SEQ_LEN, 4, 0, 1, seed=0)
    with Prefetcher(batches, start=8, num_batches=5, depth=depth) as prefetcher:
        assert prefetcher.samples_consumed == 8
        for step, (tokens_BL, targets_BL) in enumerate(prefetcher):
            expected = batches.batch(8 + 4 * step)
            assert np.array_equal(tokens_BL, expected[0])
            assert np.array_equal(targets_BL, expected[1])
            assert prefetcher.samples_consumed == 8 + 4 * (step + 1)
        assert prefetcher.samples_consumed == 28
        with pytest.raises(StopIteration):
            next(prefetcher)


class Watched(Batches):
    """Batches that record which were read, and that fail at one."""

    def __init__(self, *arguments: Any, fail_at: int | None = None) -> None:
        super().__init__(*arguments)
        self.read: list[int] = []
        self.fail_at = fail_at

    def batch(self, samples_consumed: int) -> Batch:
        if samples_consumed == self.fail_at:
            raise OSError("the disk is gone")
        self.read.append(samples_consumed)
        return super().batch(samples_consumed)


def wait_until(condition: Any) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "waited 10 s in vain"
        time.sleep(0.001)


def test_the_thread_reads_depth_batches_ahead_and_no_more(stream: TokenStream) -> None:
    batches = Watched(stream, SEQ_LEN, 4, 0, 1, 0)
    with Prefetcher(batches, start=0, num_batches=100, depth=3) as prefetcher:
        wait_until(lambda: len(batches.read) == 3)
        next(prefetcher)
        wait_until(lambda: len(batches.read) == 4)
        time.sleep(0.05)
        assert batches.read == [0, 4, 8, 12]
        assert prefetcher.samples_consumed == 4


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_of_the_reader_is_raised_in_place_of_its_batch(stream: TokenStream, depth: int) -> None:
    batches = Watched(stream, SEQ_LEN, 4, 0, 1, 0, fail_at=8)
    with Prefetcher(batches, start=0, num_batches=100, depth=depth) as prefetcher:
        next(prefetcher)
        next(prefetcher)
        with pytest.raises(OSError, match="the disk is gone"):
            next(prefetcher)
        assert prefetcher.samples_consumed == 8


def test_close_ends_the_thread_wherever_it_is(stream: TokenStream) -> None:
    def num_threads() -> int:
        return sum(thread.name == "prefetch" for thread in threading.enumerate())

    for taken in (0, 1, 5):
        prefetcher = Prefetcher(Batches(stream, SEQ_LEN, 4, 0, 1, 0), start=0, num_batches=5, depth=2)
        assert len([next(prefetcher) for _ in range(taken)]) == taken
        prefetcher.close()
        prefetcher.close()
        assert num_threads() == 0
        assert list(prefetcher) == []


def test_held_out_is_the_first_windows_in_order_as_many_as_there_are(corpus: Path) -> None:
    val = open_corpus(corpus, "val")
    num_samples = val.num_samples(SEQ_LEN)
    for asked, got in ((0, 0), (1, 1), (num_samples, num_samples), (num_samples + 50, num_samples)):
        tokens_BL, targets_BL = held_out(val, SEQ_LEN, asked)
        assert tokens_BL.shape == targets_BL.shape == (got, SEQ_LEN)
        assert np.array_equal(tokens_BL.ravel(), val.read(0, got * SEQ_LEN))
        assert got == 0 or np.array_equal(targets_BL.ravel(), val.read(1, got * SEQ_LEN))


def test_a_val_split_shorter_than_a_window_is_one_sample_whose_padding_carries_no_loss(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("short")
    prepare([tmp_path], tmp_path / "corpus", vocab_size=300)
    val = open_corpus(tmp_path / "corpus", "val")
    text = val.read(0, val.num_tokens)
    for seq_len in (val.num_tokens, val.num_tokens + 1, 64):
        tokens_BL, targets_BL = held_out(val, seq_len, 5)
        assert tokens_BL.shape == targets_BL.shape == (1, seq_len)
        assert np.array_equal(tokens_BL[0, : len(text)], text)
        assert (tokens_BL[0, len(text) :] == val.eot_id).all()
        assert np.array_equal(targets_BL[0, : len(text) - 1], text[1:])
        assert (targets_BL[0, len(text) - 1 :] == IGNORE).all()
    assert held_out(val, val.num_tokens - 1, 5)[1].min() >= 0  # exactly one whole window
