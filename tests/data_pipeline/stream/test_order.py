"""An order draws every sample once in each epoch, and each epoch in its own order."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import foretrain.data_pipeline.stream.order
from foretrain.data_pipeline.stream.order import Order, permute, permute_each

seeds = st.integers(0, 2**63 - 1)
shard_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
windows = st.none() | st.integers(1, 100)


def epoch_key(seed: int, epoch: int) -> bytes:
    """The key of the permutation of one epoch without a window."""
    return f"order/{seed}/{epoch}".encode()


def starts_of(sizes: list[int]) -> list[int]:
    return list(accumulate(sizes, initial=0))


def laid_out(sizes: list[int], key: str, epoch: int) -> list[int]:
    """The samples of one epoch of locality mode before blocks are shuffled."""
    starts = starts_of(sizes)
    filled = [shard for shard, size in enumerate(sizes) if size]
    laid: list[int] = []
    for place in permute(np.arange(len(filled)), len(filled), f"{key}/{epoch}/shards".encode()).tolist():
        shard = filled[place]
        laid += range(starts[shard], starts[shard + 1])
    return laid


def draw_by_draw(sizes: list[int], key: str, window: int, epoch: int) -> list[int]:
    """One epoch of locality mode, written plainly: put the shards end to end, then shuffle block by block."""
    laid = laid_out(sizes, key, epoch)
    shift = int.from_bytes(blake2b(f"{key}/{epoch}/shift".encode(), digest_size=8).digest(), "little") % window
    samples, number = [], 0
    while laid:
        size = window - shift if number == 0 else window
        block, laid = laid[:size], laid[size:]
        places = permute(np.arange(len(block)), len(block), f"{key}/{epoch}/{number}".encode())
        samples += [block[place] for place in places.tolist()]
        number += 1
    return samples


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 4096, 4097, 48_808])
def test_permute_is_a_bijection(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, b"key")), np.arange(n))


@given(n=st.integers(1, 3000), key=st.binary(max_size=64))
def test_permute_is_a_bijection_for_every_size_and_key(n: int, key: bytes) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@given(n=st.integers(1, 2**62), seed=seeds, data=st.data())
def test_permute_stays_in_range_and_has_no_collision_for_huge_sizes(n: int, seed: int, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=20))
    image = permute(np.array(index), n, epoch_key(seed, 0))
    assert image.min() >= 0
    assert image.max() < n
    assert len(np.unique(image)) == len(index)


@given(n=st.integers(1, 500), key=st.binary(max_size=8), data=st.data())
def test_permute_of_an_index_does_not_depend_on_its_neighbours(n: int, key: bytes, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, n - 1))
    alone = permute(i, n, key)
    assert alone.shape == ()
    assert alone == permute(np.arange(n), n, key)[i]


@given(n=st.integers(64, 500), seed=seeds, epoch=st.integers(0, 1000))
def test_each_epoch_and_each_seed_has_another_order(n: int, seed: int, epoch: int) -> None:
    order = permute(np.arange(n), n, epoch_key(seed, epoch))
    assert not np.array_equal(order, permute(np.arange(n), n, epoch_key(seed, epoch + 1)))
    assert not np.array_equal(order, permute(np.arange(n), n, epoch_key(seed + 1, epoch)))
    assert not np.array_equal(order, np.arange(n))


def test_a_new_epoch_of_the_stream_has_a_new_order() -> None:
    epoch, window = Order([0, 100], "order/0", None).at(np.arange(300))
    assert not np.array_equal(window[epoch == 0], window[epoch == 1])
    assert not np.array_equal(window[epoch == 1], window[epoch == 2])


def test_the_order_is_uncorrelated_with_the_index() -> None:
    n = 20_000
    order = permute(np.arange(n), n, epoch_key(0, 0))
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.03
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    # Two independent uniform places are a third of the range apart on average.
    assert abs(np.abs(np.diff(order)).mean() / n - 1 / 3) < 0.01


def test_the_order_never_changes_between_versions() -> None:
    _, window = Order([0, 1000], "order/7", None).at(np.arange(8))
    assert window.tolist() == [960, 651, 301, 921, 54, 298, 383, 601]


@given(n=st.integers(1, 2**40), num_keys=st.integers(1, 5), data=st.data())
def test_permute_each_is_permute_with_a_key_for_each_index(n: int, num_keys: int, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    which = np.array([data.draw(st.integers(0, num_keys - 1)) for _ in index])
    keys = [f"key {i}".encode() for i in range(num_keys)]
    expected = [int(permute(i, n, keys[j])) for i, j in zip(index, which, strict=True)]
    assert permute_each(index, n, keys, which).tolist() == expected


@settings(max_examples=40)
@given(sizes=shard_sizes, seed=seeds, epoch=st.integers(0, 20))
def test_without_a_window_an_epoch_is_one_permutation_of_all_samples(sizes: list[int], seed: int, epoch: int) -> None:
    n = sum(sizes)
    for window in (None, n, 10**6):
        _, sample = Order(starts_of(sizes), f"order/{seed}", window).at(np.arange(epoch * n, (epoch + 1) * n))
        assert np.array_equal(sample, permute(np.arange(n), n, epoch_key(seed, epoch)))


@given(sizes=shard_sizes, window=windows, seed=seeds, epoch=st.integers(0, 2**20))
def test_every_epoch_of_an_order_is_a_permutation(sizes: list[int], window: int | None, seed: int, epoch: int) -> None:
    n = sum(sizes)
    epochs, samples = Order(starts_of(sizes), f"order/{seed}", window).at(np.arange(epoch * n, (epoch + 2) * n))
    assert np.array_equal(epochs, np.repeat([epoch, epoch + 1], n))
    assert np.array_equal(np.sort(samples.reshape(2, n)), np.tile(np.arange(n), (2, 1)))


@settings(max_examples=40)
@given(sizes=shard_sizes, window=st.integers(1, 100), seed=seeds, epoch=st.integers(0, 1000))
def test_locality_shuffles_shards_and_then_samples_inside_blocks(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    n = sum(sizes)
    if window < n:
        order = Order(starts_of(sizes), f"order/{seed}", window)
        sample = order.at(np.arange(epoch * n, (epoch + 1) * n))[1]
        assert sample.tolist() == draw_by_draw(sizes, f"order/{seed}", window, epoch)


@pytest.mark.parametrize("window", [None, 64, 1000])
def test_epochs_and_keys_have_different_orders(window: int | None) -> None:
    starts, n = np.arange(0, 5001, 50), 5000
    epochs = Order(starts, "order/0", window).at(np.arange(3 * n))[1].reshape(3, n)
    other = Order(starts, "order/1", window).at(np.arange(n))[1]
    for one, two in ((epochs[0], epochs[1]), (epochs[1], epochs[2]), (epochs[0], other), (epochs[0], np.arange(n))):
        assert np.count_nonzero(one == two) < 20


def test_blocks_of_a_large_shard_have_different_edges_in_each_epoch() -> None:
    """With the same edges in every epoch, the same samples would be shuffled together again and again."""
    n, window = 4096, 512
    epochs = Order([0, n], "order/0", window).at(np.arange(20 * n))[1].reshape(20, n)
    # A block ends where all samples before have been drawn, and none after.
    ends = [set(np.flatnonzero(np.maximum.accumulate(epoch) == np.arange(n)).tolist()) for epoch in epochs]
    assert all(len(each) >= n // window for each in ends)
    assert set.intersection(*ends[:3]) == {n - 1}


@settings(max_examples=50)
@given(sizes=shard_sizes, window=windows, seed=seeds, data=st.data())
def test_a_draw_does_not_depend_on_other_draws(
    sizes: list[int], window: int | None, seed: int, data: st.DataObject
) -> None:
    n = sum(sizes)
    order = Order(starts_of(sizes), f"order/{seed}", window)
    k = data.draw(st.lists(st.integers(0, 9 * n), min_size=1, max_size=30))
    epoch, sample = order.at(np.array(k))
    fresh = pickle.loads(pickle.dumps(order))
    alone = [fresh.at(each) for each in k]
    assert [(int(e), int(s)) for e, s in alone] == list(zip(epoch.tolist(), sample.tolist(), strict=True))
    assert order.at(np.array(k).reshape(1, -1, 1))[1].shape == (1, len(k), 1)
    assert alone[0][0].shape == alone[0][1].shape == ()


@settings(max_examples=50)
@given(n=st.integers(10**9, 2**45), window=st.integers(1, 2**24), seed=seeds, data=st.data())
def test_a_huge_order_stays_in_range_and_has_no_collision(n: int, window: int, seed: int, data: st.DataObject) -> None:
    order = Order([0, n // 3, n // 3, n - 1, n], f"order/{seed}", window)
    k = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=20))
    epoch, sample = order.at(np.array(k) + 7 * n)
    assert set(epoch.tolist()) == {7}
    assert sample.min() >= 0
    assert sample.max() < n
    assert len(np.unique(sample)) == len(k)


@settings(max_examples=40)
@given(sizes=shard_sizes, window=windows, seed=seeds, k=st.integers(0, 1000), count=st.integers(0, 400))
@pytest.mark.parametrize("walked_at_once", [3, 4096])
def test_shards_ahead_are_those_of_the_draws_in_the_order_of_first_need(
    walked_at_once: int, sizes: list[int], window: int | None, seed: int, k: int, count: int
) -> None:
    starts = starts_of(sizes)
    order = Order(starts, f"order/{seed}", window)
    samples = order.at(np.arange(k, k + count))[1].tolist()
    need = dict.fromkeys(max(i for i, start in enumerate(starts[:-1]) if start <= sample) for sample in samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foretrain.data_pipeline.stream.order, "WALKED_AT_ONCE", walked_at_once)
        assert order.shards_ahead(k, count).tolist() == list(need)
        assert order.shards_ahead(k, count).tolist() == list(need)  # now from the cache


@given(sizes=shard_sizes, window=st.integers(1, 100), seed=seeds)
def test_num_shards_at_hand_is_the_most_that_a_block_can_span(sizes: list[int], window: int, seed: int) -> None:
    n, starts = sum(sizes), np.array(starts_of(sizes))
    shards = np.searchsorted(starts, laid_out(sizes, f"order/{seed}", 0), side="right") - 1
    most = max(len(np.unique(shards[first : first + window])) for first in range(n))
    assert Order(starts, f"order/{seed}", window).num_shards_at_hand() == most
    assert Order(starts, f"order/{seed}").num_shards_at_hand() == np.count_nonzero(sizes)


def test_several_threads_may_share_an_order() -> None:
    starts = np.arange(0, 20_001, 100)
    k = np.random.default_rng(0).integers(0, 10**5, (24, 20))
    expected = [Order(starts, "order/0", 300).at(each)[1].tolist() for each in k]
    shared = Order(starts, "order/0", 300)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: shared.at(each)[1].tolist(), k)) == expected


def test_the_local_order_never_changes_between_versions() -> None:
    order = Order(np.arange(0, 1001, 10), "order/7", 100)
    assert order.at(np.arange(995, 1003))[1].tolist() == [58, 305, 333, 738, 336, 408, 405, 404]
    assert order.shards_ahead(995, 8).tolist() == [5, 30, 33, 73, 40]


def test_order_imports_no_heavy_package() -> None:
    heavy = "('torch', 'tokenizers', 'rich')"
    code = f"import sys, foretrain.data_pipeline.stream.order; print([m for m in sys.modules if m in {heavy}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
