"""Which window of the token stream is global sample g: a pure function of (g, number of windows, seed).

An epoch is a permutation of the windows that is computed, not stored: a Feistel network permutes the smallest power of
two that holds [0, n), and cycle walking (apply it again until the value falls below n) restricts it to [0, n): Black
and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

NUM_ROUNDS = 8
"""Even, so that the halves end up where they began; 8 round keys of 8 bytes are one blake2b digest."""


def epoch_key(seed: int, epoch: int) -> bytes:
    """Return the key of the permutation of one epoch."""
    return f"order/{seed}/{epoch}".encode()


def permute(index: npt.ArrayLike, n: int, key: bytes) -> IntArray:
    """Return where the permutation of [0, n) that `key` selects sends each index.

    Shape and order are those of `index`; dtype int64. It is a bijection of [0, n) for every n from 1 to 2**62.
    """
    value = np.array(index, dtype=np.int64, ndmin=1)
    assert 1 <= n <= 2**62, f"n = {n} is outside [1, 2**62]"
    assert value.size == 0 or (value.min() >= 0 and value.max() < n), f"an index lies outside [0, {n})"
    round_keys = np.frombuffer(blake2b(key, digest_size=8 * NUM_ROUNDS).digest(), dtype="<u8")
    num_bits = max(2, (n - 1).bit_length())

    walked = _feistel(value.astype(np.uint64), num_bits, round_keys)
    outside = walked >= n
    while outside.any():
        walked[outside] = _feistel(walked[outside], num_bits, round_keys)
        outside = walked >= n
    return walked.astype(np.int64).reshape(np.shape(index))


def sample_at(g: npt.ArrayLike, n: int, seed: int) -> tuple[IntArray, IntArray]:
    """Return (epoch, window) of each global sample g of a stream of n windows, in the shape of g, int64.

    Each epoch visits every window once, in its own order.
    """
    epoch, position = np.divmod(np.asarray(g, dtype=np.int64), n)
    window = np.empty_like(position)
    for each in np.unique(epoch):
        here = epoch == each
        window[here] = permute(position[here], n, epoch_key(seed, int(each)))
    return epoch, window


def _feistel(
    value: npt.NDArray[np.uint64], num_bits: int, round_keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Permute [0, 2**num_bits): each round swaps the halves and adds a hash of one to the other."""
    left_bits, right_bits = np.uint64(num_bits // 2), np.uint64((num_bits + 1) // 2)
    left, right = value >> right_bits, value & _mask(right_bits)
    for round_key in round_keys:
        left, right = right, (left ^ _mix(right ^ round_key)) & _mask(left_bits)
        left_bits, right_bits = right_bits, left_bits
    return (left << right_bits) | right


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every input bit over the low output bits (multiply and xor-shift, modulo 2**64)."""
    value = value * np.uint64(0x9E3779B97F4A7C15)
    value = value ^ (value >> np.uint64(32))
    value = value * np.uint64(0xD6E8FEB86659FD93)
    return value ^ (value >> np.uint64(32))


def _mask(num_bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << num_bits) - np.uint64(1)
