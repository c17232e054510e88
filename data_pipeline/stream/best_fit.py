"""Packing of documents into samples of one length by best-fit decreasing, as plain arithmetic.

Ding et al., "Fewer Truncations Improve Language Modeling", ICML 2024 (arXiv 2404.10830): only documents longer than a
sample are cut, and the pieces go into as few samples as best-fit decreasing needs.

A piece is identified by the stream position of its first target. Its inputs are the tokens one position before its
targets: the inputs of a complete document are the EOT before it and all its tokens but its own EOT. So every token of
the stream is a target once.

Shape letters: D documents, P pieces, S samples.
"""

from bisect import bisect_left, insort
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.stream.batch import IntArray

RADIX_SORTED = 1 << 16
"""numpy sorts numbers below this in linear time, and larger ones in n log n."""


def cut_into_pieces(starts: IntArray, ends: IntArray, seq_len: int, first: int, end: int) -> tuple[IntArray, IntArray]:
    """Return (starts, lengths), both of shape (P,), of the pieces that start in [first, end) of the stream.

    Document d is tokens [starts[d], ends[d]); both have shape (D,). It is cut every seq_len tokens from its start on,
    wherever `first` and `end` are. So all its pieces but the last have seq_len tokens, and neighbouring ranges
    [first, end) together have each piece once.
    """
    before = np.maximum(0, -((starts - first) // seq_len))
    through = -((starts - np.minimum(ends, end)) // seq_len)
    num_pieces = np.maximum(0, through - before)
    number = before.repeat(num_pieces) + count_up(num_pieces)
    piece_starts = starts.repeat(num_pieces) + number * seq_len
    return piece_starts, np.minimum(seq_len, ends.repeat(num_pieces) - piece_starts)


def pack(lengths: IntArray, seq_len: int) -> tuple[IntArray, IntArray]:
    """Return (pieces, offsets), shapes (P,) and (S + 1,): sample s has the pieces pieces[offsets[s] : offsets[s + 1]].

    `lengths`, shape (P,), are from 1 to seq_len; the pieces of a sample have together at most seq_len tokens. Best-fit
    decreasing takes the pieces from the longest to the shortest, and puts each into the sample with the least room that
    is enough, or into a new sample if none has enough. A sample's pieces are in that order, the longest first. Samples
    are in the order of their first piece in the stream, so that samples of long pieces do not all come first.

    Pieces of one length are placed together, and samples with the same room left are interchangeable. So the work in
    Python grows with the number of distinct lengths, which is at most seq_len, and not with P.
    """
    if len(lengths) == 0:
        return np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    assert 1 <= lengths.min() <= lengths.max() <= seq_len, f"a piece is not of 1 to {seq_len} tokens"
    key = seq_len - lengths
    by_length = np.argsort(key.astype(np.uint16) if seq_len < RADIX_SORTED else key, kind="stable")
    sample_of, openers = _place(lengths[by_length], seq_len)

    rank = np.empty_like(openers)
    rank[np.argsort(by_length[openers])] = np.arange(len(openers))
    sample_of = rank[sample_of]
    by_sample = np.argsort(sample_of, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(sample_of))])
    return by_length[by_sample], offsets


def count_up(counts: IntArray) -> IntArray:
    """Return 0 .. counts[0] - 1, 0 .. counts[1] - 1, ...: shape (sum of counts,)."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - (ends - counts).repeat(counts)


def _place(descending: IntArray, seq_len: int) -> tuple[IntArray, IntArray]:
    """Return the sample of each piece, shape (P,), and the first piece of each sample, shape (S,).

    The first of several pieces of one length goes into the sample with the least room. What it leaves there is less
    than any other room, so the next piece goes there too if it fits. A sample therefore takes as many of these pieces
    as it can hold before the next sample takes any.
    """
    sample_of = np.empty_like(descending)
    openers: list[IntArray] = []
    rooms = _Rooms()
    num_samples = 0
    edges = np.flatnonzero(np.diff(descending, prepend=-1, append=-1)).tolist()
    for at, end in pairwise(edges):
        length = int(descending[at])
        while at < end:
            found = rooms.take_least(length)
            if found is not None:
                room, samples = found
            else:
                openers.append(np.arange(at, end, seq_len // length))
                room, samples = seq_len, np.arange(num_samples, num_samples + len(openers[-1]))
                num_samples += len(samples)
            each = room // length
            num_full = min((end - at) // each, len(samples))
            rest = 0 if num_full == len(samples) else (end - at) % each
            sample_of[at : at + num_full * each] = samples[:num_full].repeat(each)
            at += num_full * each
            sample_of[at : at + rest] = samples[num_full : num_full + 1]
            at += rest
            rooms.put(room - each * length, samples[:num_full])
            if rest:
                rooms.put(room - rest * length, samples[num_full : num_full + 1])
                num_full += 1
            rooms.put(room, samples[num_full:])
    return sample_of, np.concatenate(openers)


class _Rooms:
    """The samples that are not full, by the room left in them."""

    def __init__(self) -> None:
        self._samples: dict[int, list[IntArray]] = {}
        self._ascending: list[int] = []

    def put(self, room: int, samples: IntArray) -> None:
        """Add samples with this much room."""
        if room == 0 or len(samples) == 0:
            return
        if room not in self._samples:
            self._samples[room] = []
            insort(self._ascending, room)
        self._samples[room].append(samples)

    def take_least(self, at_least: int) -> tuple[int, IntArray] | None:
        """Remove and return the least room that is enough, and all samples with that room; None if none has enough."""
        place = bisect_left(self._ascending, at_least)
        if place == len(self._ascending):
            return None
        room = self._ascending.pop(place)
        parts = self._samples.pop(room)
        return room, parts[0] if len(parts) == 1 else np.concatenate(parts)
