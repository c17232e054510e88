"""Samples are divided among ranks, and reading ahead loses none."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.data_pipeline.stream.batches import Batches, Prefetcher
from foretrain.data_pipeline.stream.left_out import LeftOut
from foretrain.data_pipeline.stream.samples import SampleStream
from tests.data_pipeline.stream.memory_stream import MemoryStream
from tests.data_pipeline.stream.test_samples import make_case


@pytest.fixture(scope="module")
def stream() -> SampleStream:
    """Samples of 32 tokens."""
    return make_case([MemoryStream(Path("/nowhere"), [70] * 100)], [1.0], seq_len=32).stream


def test_a_batch_is_divided_into_contiguous_shares_rank_0_first(stream: SampleStream) -> None:
    shares = [Batches(stream, 8, rank, 4).batch(100).tokens_BL for rank in range(4)]
    assert all(share.shape == (2, 32) and share.dtype == np.int64 for share in shares)
    assert np.array_equal(np.concatenate(shares), stream.read(np.arange(100, 108)).tokens_BL)


def test_batches_have_all_samples_in_their_order_but_those_that_are_left_out(stream: SampleStream) -> None:
    left_out = LeftOut.of([(8, 16), (20, 21), (50, 90)])
    ranks = [Batches(stream, 8, rank, 2, left_out=left_out) for rank in range(2)]
    batches = [rank.batch(consumed) for consumed in range(0, 64, 8) for rank in ranks]
    expected = [g for g in range(200) if not (8 <= g < 16 or g == 20 or 50 <= g < 90)][:64]
    assert np.concatenate([batch.samples_B for batch in batches]).tolist() == expected
    assert np.array_equal(np.concatenate([b.tokens_BL for b in batches]), stream.read(np.array(expected)).tokens_BL)


def test_a_batch_that_the_ranks_do_not_divide_is_refused(stream: SampleStream) -> None:
    with pytest.raises(ValueError, match="global_batch_size = 10 is not a multiple of dp = 4"):
        Batches(stream, 10, 0, 4)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_returns_the_same_batches_and_counts_only_those(stream: SampleStream, depth: int) -> None:
    batches = Batches(stream, 4, 0, 1)
    with Prefetcher(batches, start=8, num_batches=5, depth=depth) as prefetcher:
        assert prefetcher.samples_consumed == 8
        for step, batch in enumerate(prefetcher):
            expected = batches.batch(8 + 4 * step)
            assert np.array_equal(batch.tokens_BL, expected.tokens_BL)
            assert np.array_equal(batch.targets_BL, expected.targets_BL)
            assert prefetcher.samples_consumed == 8 + 4 * (step + 1)
        assert prefetcher.samples_consumed == 28
        with pytest.raises(StopIteration):
            next(prefetcher)


class Watched(Batches):
    """Batches that record which of them were read; one of them fails."""

    def __init__(self, *arguments: Any, fail_at: int | None = None) -> None:
        super().__init__(*arguments)
        self.read: list[int] = []
        self.fail_at = fail_at

    def batch(self, samples_consumed: int) -> Batch:
        if samples_consumed == self.fail_at:
            raise OSError("the disk is gone")
        self.read.append(samples_consumed)
        return super().batch(samples_consumed)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.001)


def test_the_thread_reads_depth_batches_ahead_and_no_more(stream: SampleStream) -> None:
    batches = Watched(stream, 4, 0, 1)
    with Prefetcher(batches, start=0, num_batches=100, depth=3) as prefetcher:
        wait_until(lambda: len(batches.read) == 3)
        next(prefetcher)
        wait_until(lambda: len(batches.read) == 4)
        time.sleep(0.05)
        assert batches.read == [0, 4, 8, 12]
        assert prefetcher.samples_consumed == 4


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_of_the_reader_is_raised_in_place_of_its_batch(stream: SampleStream, depth: int) -> None:
    batches = Watched(stream, 4, 0, 1, fail_at=8)
    with Prefetcher(batches, start=0, num_batches=100, depth=depth) as prefetcher:
        next(prefetcher)
        next(prefetcher)
        with pytest.raises(OSError, match="the disk is gone"):
            next(prefetcher)
        assert prefetcher.samples_consumed == 8


def test_close_ends_the_thread_at_any_point(stream: SampleStream) -> None:
    def num_threads() -> int:
        return sum(thread.name == "prefetch" for thread in threading.enumerate())

    for taken in (0, 1, 5):
        prefetcher = Prefetcher(Batches(stream, 4, 0, 1), start=0, num_batches=5, depth=2)
        assert len([next(prefetcher) for _ in range(taken)]) == taken
        prefetcher.close()
        prefetcher.close()
        assert num_threads() == 0
        assert list(prefetcher) == []


def test_wait_s_is_the_time_for_which_the_last_batch_was_waited_for(
    stream: SampleStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    asked = threading.Event()

    def clock() -> float:
        asked_at_s = now_s
        asked.set()
        return asked_at_s

    class Slow(Watched):
        """Each batch takes 5 s by the clock, from the moment that one is asked for."""

        def batch(self, samples_consumed: int) -> Batch:
            nonlocal now_s
            asked.wait(120)
            now_s += 5
            return super().batch(samples_consumed)

    monkeypatch.setattr(time, "perf_counter", clock)
    for depth in (0, 1):
        asked.clear()
        with Prefetcher(Slow(stream, 4, 0, 1), start=0, num_batches=1, depth=depth) as prefetcher:
            next(prefetcher)
            assert prefetcher.wait_s == 5
    read_ahead = Slow(stream, 4, 0, 1)
    with Prefetcher(read_ahead, start=0, num_batches=1, depth=1) as prefetcher:
        wait_until(lambda: read_ahead.read == [0])
        next(prefetcher)
        assert prefetcher.wait_s == 0
