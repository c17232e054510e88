"""The order in which the samples of one source are drawn: a pure function of the number of the draw.

An epoch is a permutation of the samples that is computed, not stored: a Feistel network permutes the smallest power of
two that holds [0, n), and cycle walking (apply it again until the value falls below n) restricts it to [0, n): Black
and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.stream.batch import IntArray

UintArray = npt.NDArray[np.uint64]

MIN_BITS = 6
"""With halves of fewer than 3 bits, which pairs of indices go together would show."""

NUM_ROUNDS = 8
"""An even number, so that the halves end in their first places; 8 keys of 8 bytes are one blake2b digest."""

FACTORS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
HALF = np.uint64(32)

WALKED_AT_ONCE = 4096
"""Draws whose shards are looked up in one step."""


def permute(index: npt.ArrayLike, n: int, key: bytes) -> IntArray:
    """Return the image of each index under the permutation of [0, n) that `key` selects, int64 in the shape of `index`.

    It is a bijection of [0, n) for every n from 1 to 2**62.
    """
    return permute_each(np.ravel(index), n, [key], np.zeros(1, dtype=np.int64)).reshape(np.shape(index))


def permute_each(index: npt.ArrayLike, n: int, keys: Sequence[bytes], which: IntArray) -> IntArray:
    """Return the image of index[i] under the permutation of [0, n) that keys[which[i]] selects, int64, shape (N,).

    `index` has shape (N,); `which` has shape (N,), or (1,) if all indices share one key.
    """
    value = np.asarray(index, dtype=np.int64)
    assert 1 <= n <= 2**62, f"n = {n} is outside [1, 2**62]"
    assert value.size == 0 or (value.min() >= 0 and value.max() < n), f"an index is outside [0, {n})"
    digests = b"".join(blake2b(key, digest_size=8 * NUM_ROUNDS).digest() for key in keys)
    round_keys = np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, NUM_ROUNDS).T[:, which]
    num_bits = max(MIN_BITS, (n - 1).bit_length())

    if num_bits == MIN_BITS and round_keys.shape[1] == 1:
        # The walk is long if n is far below the power of two. A table of the smallest one costs no more than one value.
        table = _feistel(np.arange(1 << MIN_BITS, dtype=np.uint64), num_bits, round_keys).astype(np.int64)
        image = table[value]
        while len(outside := np.flatnonzero(image >= n)):
            image[outside] = table[image[outside]]
        return image
    walked = _feistel(value.astype(np.uint64), num_bits, round_keys)
    outside = np.flatnonzero(walked >= n)
    while len(outside):
        keys_outside = round_keys if round_keys.shape[1] == 1 else round_keys[:, outside]
        walked[outside] = again = _feistel(walked[outside], num_bits, keys_outside)
        outside = outside[again >= n]
    return walked.astype(np.int64)


class Order:
    """The sample that the k-th draw from one source takes. Each epoch draws every sample once, in its own order.

    `shard_starts`, shape (num_shards + 1,), is the number of the first sample of each shard, and the end; a shard may
    have no sample. Without a `window`, an epoch is one permutation of all samples, and every shard is in use all the
    time. With a window (locality mode), an epoch puts the shards end to end in a shuffled order, and permutes the
    samples inside blocks of `window` samples, so that the samples of a block come from few shards. A window that holds
    all samples has no effect.

    `key` selects the order. Several threads may share an Order. It caches layouts of the last epochs and blocks; a
    pickled copy starts with empty caches.
    """

    def __init__(self, shard_starts: npt.ArrayLike, key: str, window: int | None = None) -> None:
        self.shard_starts: IntArray = np.asarray(shard_starts, dtype=np.int64)
        self.num_samples = int(self.shard_starts[-1])
        self.key, self.window = key, window if window is None or window < self.num_samples else None
        self.shards: IntArray = np.flatnonzero(np.diff(self.shard_starts))
        """The shards that have samples."""
        assert self.num_samples > 0, "a source without samples has no order"
        assert window is None or window > 0, f"window = {window} must be positive"
        self._layout = lru_cache(maxsize=4)(self._lay_shards)
        self._block_shards = lru_cache(maxsize=4)(self._find_block_shards)
        self._block_needs = lru_cache(maxsize=1024)(self._find_block_needs)

    def at(self, k: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """Return (epoch, sample) of each draw k >= 0, in the shape of k, int64."""
        epoch, position = np.divmod(np.ravel(np.asarray(k, dtype=np.int64)), self.num_samples)
        sample = np.empty_like(position)
        for each, here in groups(epoch):
            if self.window is None:
                sample[here] = permute(position[here], self.num_samples, f"{self.key}/{each}".encode())
            else:
                layout = self._layout(each)
                laid = self._shuffle_blocks(each, position[here])
                slot = layout.slot(laid)
                sample[here] = self.shard_starts[layout.shards[slot]] + laid - layout.starts[slot]
        return epoch.reshape(np.shape(k)), sample.reshape(np.shape(k))

    def shards_ahead(self, k: int, count: int) -> IntArray:
        """Return the shards of draws [k, k + count), each once, in the order in which they are first needed.

        In locality mode the call costs a block (a hundredth of a second at 65,536 samples) each time k or k + count
        enters another block, and little otherwise. Without a window the cost grows with `count` until every shard has
        been found.
        """
        seen: dict[int, None] = {}
        end = k + count
        while k < end and len(seen) < len(self.shards):
            if self.window is None or self.window < WALKED_AT_ONCE:
                stop = min(k + WALKED_AT_ONCE, end)
                need = self._need(self._shard_of(self.at(np.arange(k, stop))[1]))
            else:
                epoch, position = divmod(k, self.num_samples)
                block = int(self._block_of(epoch, position))
                first, last = (epoch * self.num_samples + int(edge) for edge in self._edges(epoch, block))
                stop = min(last, end)
                is_full_block = k == first and stop == last
                need = (
                    self._block_needs(epoch, block)
                    if is_full_block
                    else self._need(self._block_shards(epoch, block)[k - first : stop - first])
                )
            seen.update(dict.fromkeys(need.tolist()))
            k = stop
        return np.fromiter(seen, dtype=np.int64, count=len(seen))

    def num_shards_at_hand(self, epoch: int = 0) -> int:
        """Return the largest number of shards that a block of this epoch can come from, wherever the block begins."""
        if self.window is None:
            return len(self.shards)
        layout = self._layout(epoch)
        # A block spans the most shards if it begins with the last sample of a shard.
        last_sample = np.minimum(layout.starts[1:] - 1 + self.window - 1, self.num_samples - 1)
        return int((layout.slot(last_sample) - np.arange(len(layout.shards))).max()) + 1

    def __reduce__(self) -> tuple[type["Order"], tuple[IntArray, str, int | None]]:
        return Order, (self.shard_starts, self.key, self.window)

    def _lay_shards(self, epoch: int) -> "_Layout":
        assert self.window is not None
        key = f"{self.key}/{epoch}"
        num_shards = len(self.shards)
        shards = self.shards[permute(np.arange(num_shards), num_shards, f"{key}/shards".encode())]
        starts = np.concatenate([[0], np.cumsum(self.shard_starts[shards + 1] - self.shard_starts[shards])])
        shift = int.from_bytes(blake2b(f"{key}/shift".encode(), digest_size=8).digest(), "little") % self.window
        return _Layout(shards, starts, shift)

    def _block_of(self, epoch: int, position: npt.ArrayLike) -> IntArray:
        return (np.asarray(position) + self._layout(epoch).shift) // self.window

    def _edges(self, epoch: int, block: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """Return the positions in the epoch where each block begins and ends; the first and the last may be short."""
        assert self.window is not None
        begin = np.asarray(block) * self.window - self._layout(epoch).shift
        return np.maximum(begin, 0), np.minimum(begin + self.window, self.num_samples)

    def _shuffle_blocks(self, epoch: int, position: IntArray) -> IntArray:
        """Permute positions of an epoch inside their blocks."""
        block = self._block_of(epoch, position)
        begin, end = self._edges(epoch, block)
        shuffled = np.empty_like(position)
        for size, here in groups(end - begin):  # at most three sizes; one call permutes all blocks of a size
            blocks, which = np.unique(block[here], return_inverse=True)
            keys = [f"{self.key}/{epoch}/{each}".encode() for each in blocks.tolist()]
            which = which if len(keys) > 1 else which[:1]
            shuffled[here] = begin[here] + permute_each((position - begin)[here], size, keys, which)
        return shuffled

    def _shard_of(self, sample: IntArray) -> IntArray:
        return np.searchsorted(self.shard_starts, sample, side="right") - 1

    def _need(self, shards: IntArray) -> IntArray:
        """Return the distinct values of `shards` in the order in which they first occur."""
        first = np.full(len(self.shard_starts), len(shards))
        np.minimum.at(first, shards, np.arange(len(shards)))
        present = np.flatnonzero(first < len(shards))
        return present[np.argsort(first[present])]

    def _find_block_shards(self, epoch: int, block: int) -> IntArray:
        """Return the shard of each position of a block."""
        begin, end = self._edges(epoch, block)
        layout = self._layout(epoch)
        return layout.shards[layout.slot(self._shuffle_blocks(epoch, np.arange(int(begin), int(end))))]

    def _find_block_needs(self, epoch: int, block: int) -> IntArray:
        return self._need(self._block_shards(epoch, block))


class _Layout(NamedTuple):
    """One epoch of locality mode before the samples inside its blocks are shuffled."""

    shards: IntArray
    """The shards that have samples, in the order in which they are put end to end."""
    starts: IntArray
    """Position at which each of them begins, and the end, shape (len(shards) + 1,)."""
    shift: int
    """Samples that the first block lacks. It moves the edges of blocks in each epoch. Otherwise a sample of a shard
    larger than a block would always be shuffled among the same samples."""

    def slot(self, laid: npt.ArrayLike) -> IntArray:
        """Return the index in `shards` of the shard that holds each position."""
        return np.searchsorted(self.starts, laid, side="right") - 1


def groups(ids: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield each distinct value of `ids`, shape (N,), and the indices at which it occurs; both ascend."""
    by_id = np.argsort(ids, kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(ids[by_id])) + 1).tolist(), len(ids)]
    for first, last in pairwise(edges):
        if first < last:
            yield int(ids[by_id[first]]), by_id[first:last]


def _feistel(value: UintArray, num_bits: int, round_keys: UintArray) -> UintArray:
    """Permute [0, 2**num_bits): each round swaps the halves and adds a hash of one half to the other.

    `value` has shape (N,), `round_keys` shape (NUM_ROUNDS, N) or (NUM_ROUNDS, 1). A batch is small, and the number of
    numpy calls decides the time, so each call writes into arrays that are used again.
    """
    left_bits, right_bits = np.uint64(num_bits // 2), np.uint64((num_bits + 1) // 2)
    masks = _mask(left_bits), _mask(right_bits)
    left, right = value >> right_bits, value & masks[1]
    spare, shifted = np.empty_like(value), np.empty_like(value)
    for number, round_key in enumerate(round_keys):
        np.bitwise_xor(right, round_key, out=spare)
        _mix(spare, shifted)
        spare ^= left
        spare &= masks[number % 2]
        left, right, spare = right, spare, left
    return (left << right_bits) | right


def _mix(value: UintArray, shifted: UintArray) -> None:
    """Spread every input bit over the low output bits: multiply and xor-shift, modulo 2**64. Overwrites `shifted`."""
    for factor in FACTORS:
        value *= factor
        np.right_shift(value, HALF, out=shifted)
        value ^= shifted


def _mask(num_bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << num_bits) - np.uint64(1)
