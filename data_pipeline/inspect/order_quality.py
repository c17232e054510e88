"""How good a shuffle an order is, and what it costs: each measure beside the value of an ideal shuffle.

Measured on the first epoch, on at most MAX_DRAWS draws for each measure, so that a corpus of any size takes a fraction
of a second. The draws measured are always the same ones.
"""

from dataclasses import dataclass

import numpy as np

from foretrain.data_pipeline.stream.order import IntArray, Order, permute

MAX_DRAWS = 2**17


@dataclass(frozen=True)
class Measure:
    """One measure of an order."""

    value: float
    ideal: float
    """Of a shuffle in which every order of the epoch is equally likely; of `shards_at_hand`, the least there can be."""
    meaning: str
    """One line."""


@dataclass(frozen=True)
class ShuffleQuality:
    """What an engineer must know of an order before a run."""

    displacement: Measure
    serial_correlation: Measure
    neighbours_together: Measure
    shards_per_batch: Measure
    shards_at_hand: Measure


def shuffle_quality(order: Order, global_batch_size: int) -> ShuffleQuality:
    """Measure the order as the batches of a run see it. A batch larger than the epoch counts as the whole epoch."""
    n, batch_size = order.num_samples, min(global_batch_size, order.num_samples)
    draws = permute(np.arange(min(n, MAX_DRAWS)), n, b"order_quality")
    sample, next_sample = order.at(draws)[1], order.at(np.minimum(draws + 1, n - 1))[1]
    inside = draws < n - 1
    batches = [np.sort(order.at(start + np.arange(batch_size))[1]) for start in _batch_starts(n, batch_size)]
    neighbours = np.mean([np.count_nonzero(np.diff(batch) == 1) for batch in batches]) / batch_size
    num_shards = np.mean([_num_shards(order.shard_starts, batch) for batch in batches])
    return ShuffleQuality(
        Measure(
            float(np.abs(sample - draws).mean() / n),
            (n - 1 / n) / (3 * n),
            "how far a sample is moved on average, as a share of the epoch",
        ),
        Measure(
            _correlation(sample[inside], next_sample[inside]),
            0.0,
            "correlation of the corpus positions of two samples drawn in a row; 1 is no shuffle",
        ),
        Measure(
            float(neighbours),
            (batch_size - 1) / n,
            "share of a global batch's samples whose successor in the corpus is in the same batch",
        ),
        Measure(
            float(num_shards),
            _ideal_shards(np.diff(order.shard_starts), batch_size),
            "shards that the samples of a global batch come from, on average",
        ),
        Measure(
            float(order.num_shards_at_hand()),
            1.0,
            "shards needed at hand at once, at most; twice as many where the next block's are fetched ahead",
        ),
    )


def _batch_starts(n: int, batch_size: int) -> list[int]:
    """Return the first draws of global batches that are spread evenly over an epoch."""
    num_batches = n // batch_size
    num_measured = min(num_batches, max(1, MAX_DRAWS // batch_size))
    return [i * num_batches // num_measured * batch_size for i in range(num_measured)]


def _correlation(x: IntArray, y: IntArray) -> float:
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _num_shards(shard_starts: IntArray, samples: IntArray) -> int:
    return len(np.unique(np.searchsorted(shard_starts, samples, side="right")))


def _ideal_shards(shard_sizes: IntArray, batch_size: int) -> float:
    """Return how many shards a batch drawn without repeats is expected to touch.

    A shard of s of the n samples is missed by the draw after i others with probability 1 - s / (n - i). The logarithms
    are added up at 64 of the draws (midpoint rule), or at all where there are no more.
    """
    n = int(shard_sizes.sum())
    sizes, counts = np.unique(shard_sizes[shard_sizes > 0], return_counts=True)
    num_nodes = min(batch_size, 64)
    draw_I = (np.arange(num_nodes) + 0.5) * batch_size / num_nodes - 0.5
    hit_SI = np.minimum(sizes[:, None] / (n - draw_I), 1.0)
    with np.errstate(divide="ignore"):  # a shard that cannot be missed: the logarithm of 0
        missed_S = np.exp(batch_size * np.log1p(-hit_SI).mean(axis=1))
    return float((counts * (1 - missed_S)).sum())
