"""Pack documents into samples of one length without cutting those that fit: best-fit decreasing, as plain arithmetic.

Ding et al., "Fewer Truncations Improve Language Modeling", ICML 2024 (arXiv 2404.10830): only documents longer than a
sample are cut, and the pieces go into as few samples as best-fit decreasing needs.

A piece is named by the stream position of its first target. Its inputs are the tokens one position before its targets,
so that the inputs of a whole document are the EOT before it and all its tokens but its own EOT, and every token of the
stream is a target once.

Shape letters: D documents, P pieces, S samples.
"""

from bisect import bisect_left, insort
from itertools import pairwise

import numpy as np

from foretrain.data_pipeline.stream.batch import IntArray

RADIX_SORTED = 1 << 16
"""numpy sorts numbers below this in linear time, and those above in n log n."""


def cut_into_pieces(starts: IntArray, ends: IntArray, seq_len: int, first: int, end: int) -> tuple[IntArray, IntArray]:
    """Return (starts, lengths), both of shape (P,), of the pieces of documents that start in stream [first, end).

    A document [start, end), shape (D,), is cut every seq_len tokens from its start on, wherever [first, end) lies: all
    its pieces but the last have seq_len tokens, and neighbouring stretches have each piece once.
    """
    before = np.maximum(0, -((starts - first) // seq_len))
    through = -((starts - np.minimum(ends, end)) // seq_len)
    num_pieces = np.maximum(0, through - before)
    number = before.repeat(num_pieces) + count_up(num_pieces)
    piece_starts = starts.repeat(num_pieces) + number * seq_len
    return piece_starts, np.minimum(seq_len, ends.repeat(num_pieces) - piece_starts)


def pack(lengths: IntArray, seq_len: int) -> tuple[IntArray, IntArray]:
    """Return (pieces, offsets): sample s holds the pieces with the numbers pieces[offsets[s] : offsets[s + 1]].

    `lengths`, shape (P,), are from 1 to seq_len; the pieces of a sample are together no longer than seq_len. Samples
    are those of best-fit decreasing: from the longest piece to the shortest, each goes where the least room is left
    that holds it, and into a new sample where there is none. A sample's pieces stand in that order, so the longest
    first; samples stand in the order of their first piece, so that neighbours differ no more in the lengths of their
    pieces than any two samples do. Shapes (P,) and (S + 1,).

    Pieces of one length are placed together, and samples with the same room left are alike, so the work in Python grows
    with the number of distinct lengths, at most seq_len, and not with P.
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

    Of several pieces of one length, the first goes where the room is least. What it leaves is less than any other room,
    so while it is enough, the next goes there too: a sample takes as many as it can before the next sample has a turn.
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
    """The samples that are not full, by the room that is left in them."""

    def __init__(self) -> None:
        self._samples: dict[int, list[IntArray]] = {}
        self._ascending: list[int] = []

    def put(self, room: int, samples: IntArray) -> None:
        """Add samples that have so much room."""
        if room == 0 or len(samples) == 0:
            return
        if room not in self._samples:
            self._samples[room] = []
            insort(self._ascending, room)
        self._samples[room].append(samples)

    def take_least(self, at_least: int) -> tuple[int, IntArray] | None:
        """Remove and return the least room that is enough and all samples that have it; None where none has enough."""
        place = bisect_left(self._ascending, at_least)
        if place == len(self._ascending):
            return None
        room = self._ascending.pop(place)
        parts = self._samples.pop(room)
        return room, parts[0] if len(parts) == 1 else np.concatenate(parts)
