"""The order of samples: every window once in each epoch, each epoch in its own order."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order import epoch_key, permute, sample_at

seeds = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 4096, 4097, 48_808])
def test_permute_is_a_bijection(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, b"key")), np.arange(n))


@given(n=st.integers(1, 3000), key=st.binary(max_size=64))
def test_permute_is_a_bijection_for_every_size_and_key(n: int, key: bytes) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@given(n=st.integers(1, 2**62), seed=seeds, data=st.data())
def test_permute_stays_in_range_and_collides_nowhere_for_huge_sizes(n: int, seed: int, data: st.DataObject) -> None:
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


@given(n=st.integers(1, 300), seed=seeds, first=st.integers(0, 2000), count=st.integers(0, 700))
def test_sample_at_visits_every_window_once_in_each_epoch(n: int, seed: int, first: int, count: int) -> None:
    epoch, window = sample_at(np.arange(first, first + count), n, seed)
    assert np.array_equal(epoch, np.arange(first, first + count) // n)
    for each in np.unique(epoch):
        visited = window[epoch == each]
        assert len(np.unique(visited)) == len(visited)
        if (each * n >= first) and ((each + 1) * n <= first + count):
            assert np.array_equal(np.sort(visited), np.arange(n))


def test_a_new_epoch_of_the_stream_has_a_new_order() -> None:
    epoch, window = sample_at(np.arange(300), 100, seed=0)
    assert not np.array_equal(window[epoch == 0], window[epoch == 1])
    assert not np.array_equal(window[epoch == 1], window[epoch == 2])


def test_the_order_looks_shuffled() -> None:
    n = 20_000
    order = permute(np.arange(n), n, epoch_key(0, 0))
    assert abs(np.corrcoef(np.arange(n), order)[0, 1]) < 0.03
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    # Two independent uniform places are a third of the range apart on average.
    assert abs(np.abs(np.diff(order)).mean() / n - 1 / 3) < 0.01


def test_the_order_never_changes_between_versions() -> None:
    _, window = sample_at(np.arange(8), 1000, seed=7)
    assert window.tolist() == [960, 651, 301, 921, 54, 298, 383, 601]


def test_order_imports_neither_torch_nor_the_rest_of_the_room() -> None:
    code = "import sys, data_pipeline.order; print([m for m in sys.modules if m in ('torch', 'tokenizers', 'rich')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
