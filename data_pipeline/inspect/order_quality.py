"""Quality and cost of an order of samples: each measure next to its value for an ideal shuffle.

Each measure takes at most MAX_DRAWS draws of the first epoch, always the same ones. So a corpus of any size takes a
fraction of a second.
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
    """Value for a shuffle in which all orders of an epoch are equally likely; for `shards_at_hand`, the least value."""
    meaning: str
    """One line of explanation."""


@dataclass(frozen=True)
class ShuffleQuality:
    """The measures of one order for one batch size."""

    displacement: Measure
    serial_correlation: Measure
    neighbours_together: Measure
    shards_per_batch: Measure
    shards_at_hand: Measure


def shuffle_quality(order: Order, global_batch_size: int) -> ShuffleQuality:
    """Return the measures of an order. A batch larger than the epoch counts as the full epoch."""
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
            "correlation of the positions in the corpus of two consecutive samples; 1 means no shuffle",
        ),
        Measure(
            float(neighbours),
            (batch_size - 1) / n,
            "share of a global batch's samples whose next sample in the corpus is in the same batch",
        ),
        Measure(
            float(num_shards),
            _ideal_shards(np.diff(order.shard_starts), batch_size),
            "shards that the samples of a global batch come from, on average",
        ),
        Measure(
            float(order.num_shards_at_hand()),
            1.0,
            "most shards needed at once; twice as many if the shards of the next block are fetched ahead",
        ),
    )


def _batch_starts(n: int, batch_size: int) -> list[int]:
    """Return the first draw of each measured batch; the batches are spread evenly over an epoch."""
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
    """Return the expected number of shards of a batch that is drawn without repeats.

    If i samples were drawn and none is from a shard of s of the n samples, the next draw misses that shard too with
    probability 1 - s / (n - i). The logarithms are summed over at most 64 of the draws by the midpoint rule.
    """
    n = int(shard_sizes.sum())
    sizes, counts = np.unique(shard_sizes[shard_sizes > 0], return_counts=True)
    num_nodes = min(batch_size, 64)
    draw_I = (np.arange(num_nodes) + 0.5) * batch_size / num_nodes - 0.5
    hit_SI = np.minimum(sizes[:, None] / (n - draw_I), 1.0)
    with np.errstate(divide="ignore"):  # the logarithm of 0, if a shard cannot be missed
        missed_S = np.exp(batch_size * np.log1p(-hit_SI).mean(axis=1))
    return float((counts * (1 - missed_S)).sum())
