"""Which parameters share a bucket, and which part of it each replica owns. Pure arithmetic, in elements."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Parameters and shards start at multiples of this: 128 bytes in bf16, which matrix products and NCCL like."""


@dataclass(frozen=True)
class Slot:
    """The place of a parameter in a bucket."""

    index: int
    """The parameter's number in the list from which the buckets are planned."""
    start: int
    stop: int

    @property
    def place(self) -> slice:
        """The parameter's elements of the bucket."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Piece:
    """The part of a parameter that one replica owns."""

    index: int
    """The parameter's number in the list from which the buckets are planned."""
    in_shard: slice
    in_parameter: slice


@dataclass(frozen=True)
class Bucket:
    """Parameters whose gradients are reduced together, one after the other in one flat tensor of `size` elements.

    Replica r of `num_shards` owns elements r * size / num_shards to (r + 1) * size / num_shards.
    """

    slots: tuple[Slot, ...]
    size: int
    num_shards: int

    def shard(self, replica: int) -> slice:
        """The elements that a replica owns."""
        size = self.size // self.num_shards
        return slice(replica * size, (replica + 1) * size)

    def pieces(self, replica: int) -> Iterator[Piece]:
        """What a replica owns of each parameter, without padding; nothing of parameters that others own."""
        shard = self.shard(replica)
        for slot in self.slots:
            start, stop = max(slot.start, shard.start), min(slot.stop, shard.stop)
            if start < stop:
                yield Piece(
                    slot.index,
                    slice(start - shard.start, stop - shard.start),
                    slice(start - slot.start, stop - slot.start),
                )


def plan_buckets(sizes: Sequence[int], alone: Collection[int], num_shards: int, least: int) -> tuple[Bucket, ...]:
    """Buckets for parameters of these sizes, in their order; a bucket is full when it has `least` elements.

    Those whose numbers are in `alone` come last, and each has a bucket of its own.
    """
    buckets, members, size = [], [], 0
    for index, length in enumerate(sizes):
        if index in alone:
            continue
        members.append(index)
        size += length
        if size >= least:
            buckets.append(_bucket(members, sizes, num_shards))
            members, size = [], 0
    if members:
        buckets.append(_bucket(members, sizes, num_shards))
    buckets += [_bucket([index], sizes, num_shards) for index in sorted(alone)]
    return tuple(buckets)


def _bucket(members: Sequence[int], sizes: Sequence[int], num_shards: int) -> Bucket:
    slots, end = [], 0
    for index in members:
        slots.append(Slot(index, end, end + sizes[index]))
        end = _rounded_up(end + sizes[index], ALIGNMENT)
    return Bucket(tuple(slots), _rounded_up(end, ALIGNMENT * num_shards), num_shards)


def _rounded_up(number: int, factor: int) -> int:
    return -(-number // factor) * factor
