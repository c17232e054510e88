"""The measures distinguish good shuffles from bad ones, and the permutation passes statistical tests."""

from itertools import pairwise
from math import comb, factorial, sqrt

import numpy as np
import numpy.typing as npt
import pytest

import foretrain.data_pipeline.stream.order
from foretrain.data_pipeline.inspect.order_quality import MAX_DRAWS, shuffle_quality
from foretrain.data_pipeline.stream.order import IntArray, Order, permute_each

STARTS = np.arange(0, 64_001, 1000)

LONG_SIZES = (2, 4, 5, 8, 13, 16, 17, 32, 64, 65, 129)
"""Sizes of epochs for the statistical tests of the long suite."""


class InCorpusOrder(Order):
    """An order without a shuffle."""

    def at(self, k: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        return np.divmod(np.asarray(k, dtype=np.int64), self.num_samples)


class Counted(Order):
    """An order that refuses more draws than the measures may take."""

    num_draws = 0

    def at(self, k: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        self.num_draws += np.size(k)
        assert self.num_draws <= 3 * MAX_DRAWS
        return super().at(k)


def test_a_full_shuffle_is_ideal_except_for_the_shards_at_hand() -> None:
    quality = shuffle_quality(Order(STARTS, "order/0"), 256)
    assert abs(quality.displacement.value - 1 / 3) < 0.01
    assert abs(quality.serial_correlation.value) < 0.02
    assert quality.neighbours_together.value == pytest.approx(quality.neighbours_together.ideal, rel=0.3)
    assert quality.shards_per_batch.value == pytest.approx(quality.shards_per_batch.ideal, rel=0.01)
    assert quality.shards_at_hand.value == 64


def test_every_measure_shows_a_missing_shuffle() -> None:
    quality = shuffle_quality(InCorpusOrder(STARTS, "order/0"), 256)
    assert quality.displacement.value == 0
    assert quality.serial_correlation.value > 0.999
    assert quality.neighbours_together.value == pytest.approx(255 / 256)
    assert quality.shards_per_batch.value < 1.3


def test_a_larger_window_shuffles_better_and_needs_more_shards() -> None:
    small, large, full = (shuffle_quality(Order(STARTS, "order/0", window), 256) for window in (1000, 8000, None))
    for better, worse in pairwise((full, large, small)):
        assert better.serial_correlation.value < worse.serial_correlation.value
        assert better.neighbours_together.value < worse.neighbours_together.value
        assert better.shards_per_batch.value > worse.shards_per_batch.value
        assert better.shards_at_hand.value > worse.shards_at_hand.value
    # In a block of W samples, a batch of B holds a neighbour with probability (B - 1) / W.
    assert small.neighbours_together.value == pytest.approx(255 / 1000, rel=0.1)
    assert small.shards_at_hand.value == 2


@pytest.mark.parametrize(("sizes", "batch_size"), [([1], 1), ([3, 0, 5], 2), ([4, 4, 4], 12), ([10, 1, 200], 90)])
def test_the_ideal_number_of_shards_is_that_of_drawing_without_repeats(sizes: list[int], batch_size: int) -> None:
    n = sum(sizes)
    exact = sum(1 - comb(n - size, batch_size) / comb(n, batch_size) for size in sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    assert shuffle_quality(Order(starts, "order/0"), batch_size).shards_per_batch.ideal == pytest.approx(
        exact, rel=1e-3
    )


@pytest.mark.parametrize("window", [None, 7])
def test_on_a_small_corpus_the_measures_are_exact(window: int | None) -> None:
    starts, n = np.array([0, 5, 5, 30, 60]), 60
    order = Order(starts, "order/0", window)
    samples = order.at(np.arange(n))[1].tolist()
    quality = shuffle_quality(order, 20)
    batches = [samples[first : first + 20] for first in (0, 20, 40)]
    assert quality.displacement.value == pytest.approx(np.mean([abs(s - i) for i, s in enumerate(samples)]) / n)
    assert quality.serial_correlation.value == pytest.approx(np.corrcoef(samples[1:], samples[:-1])[0, 1])
    together = sum(s + 1 in batch for batch in batches for s in batch) / n
    assert quality.neighbours_together.value == pytest.approx(together)
    shards = [len({int(np.searchsorted(starts, s, side="right")) for s in batch}) for batch in batches]
    assert quality.shards_per_batch.value == pytest.approx(np.mean(shards))


@pytest.mark.parametrize("batch_size", [1, 2, 10**6])
def test_the_smallest_corpora_have_measures_too(batch_size: int) -> None:
    for n in (1, 2, 3):
        for window in (None, 1):
            measures = vars(shuffle_quality(Order([0, n], "order/0", window), batch_size)).values()
            assert all(np.isfinite([measure.value, measure.ideal]).all() and measure.meaning for measure in measures)


@pytest.mark.parametrize("window", [None, 4096])
def test_the_cost_does_not_grow_with_the_corpus(window: int | None) -> None:
    order = Counted(np.linspace(0, 10**9, 1001).astype(np.int64), "order/0", window)
    shuffle_quality(order, 1024)
    assert order.num_draws > MAX_DRAWS


def orders(n: int, num_keys: int) -> IntArray:
    """The orders of num_keys epochs of n samples, shape (num_keys, n)."""
    keys = [f"order/0/{epoch}".encode() for epoch in range(num_keys)]
    which = np.repeat(np.arange(num_keys), n)
    return permute_each(np.tile(np.arange(n), num_keys), n, keys, which).reshape(num_keys, n)


def chi_square(observed: npt.NDArray[np.int64], expected: float) -> float:
    return float(((observed - expected) ** 2).sum() / expected)


def passes(statistic: float, degrees: int) -> bool:
    """Whether a chi-square statistic is below its 99.9% quantile (Wilson and Hilferty, PNAS 1931)."""
    share = 2 / (9 * degrees)
    return statistic < degrees * (1 - share + 3.0902 * sqrt(share)) ** 3


def positions_statistic(order_EN: IntArray) -> float:
    """Chi-square of how often each index is sent to each place: (n - 1)**2 degrees of freedom.

    Each permutation adds one to every row and every column, which leaves (n - 1) / n of the sum over all cells.
    """
    num_keys, n = order_EN.shape
    cells = np.bincount((np.arange(n) * n + order_EN).ravel(), minlength=n * n)
    return chi_square(cells, num_keys / n) * (n - 1) / n


def pairs_statistic(order_EN: IntArray, i: int, j: int) -> float:
    """Chi-square of how often indices i and j are sent to each pair of places: n * (n - 1) - 1 degrees of freedom."""
    num_keys, n = order_EN.shape
    cells = np.bincount(order_EN[:, i] * n + order_EN[:, j], minlength=n * n).reshape(n, n)
    return chi_square(cells[~np.eye(n, dtype=bool)], num_keys / (n * (n - 1)))


@pytest.mark.parametrize("n", [3, 33, *(pytest.param(n, marks=pytest.mark.long) for n in LONG_SIZES)])
def test_every_index_has_every_image_equally_often(n: int) -> None:
    assert passes(positions_statistic(orders(n, 200_000 // n)), (n - 1) ** 2)


@pytest.mark.parametrize("n", [3, 33, *(pytest.param(n, marks=pytest.mark.long) for n in LONG_SIZES if n > 2)])
def test_every_pair_of_indices_has_every_pair_of_images_equally_often(n: int) -> None:
    order_EN = orders(n, 200_000 // n)
    for i, j in ((0, 1), (n // 2, n - 1)):
        assert passes(pairs_statistic(order_EN, i, j), n * (n - 1) - 1)


@pytest.mark.parametrize("n", [3, 4])
def test_every_order_of_a_few_samples_is_equally_likely(n: int) -> None:
    order_EN = orders(n, 50_000)
    _, counts = np.unique(order_EN @ n ** np.arange(n), return_counts=True)
    assert len(counts) == factorial(n)
    assert passes(chi_square(counts, 50_000 / factorial(n)), factorial(n) - 1)


@pytest.mark.parametrize("n", [33, 64])
def test_a_permutation_of_too_few_rounds_fails(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foretrain.data_pipeline.stream.order, "NUM_ROUNDS", 2)
    assert not passes(pairs_statistic(orders(n, 200_000 // n), 0, 1), n * (n - 1) - 1)


@pytest.mark.parametrize("n", [33, 1000])
def test_epochs_are_uncorrelated(n: int) -> None:
    """The mean correlation of an epoch with the next, and with one ten on: at most 3.3 standard deviations from 0."""
    num_epochs = 20_000 // n * 10
    order_EN = orders(n, num_epochs)
    centred_EN = (order_EN - (n - 1) / 2) / order_EN.std(axis=1, keepdims=True)
    for distance in (1, 10):
        correlations = (centred_EN[:-distance] * centred_EN[distance:]).mean(axis=1)
        assert abs(correlations.mean()) * sqrt(len(correlations) * (n - 1)) < 3.3
        assert 0.8 < correlations.std() * sqrt(n - 1) < 1.2
