"""Every element of every parameter is in one bucket, and one replica owns it."""

from hypothesis import given
from hypothesis import strategies as st

from foretrain.parallel.zero.buckets import ALIGNMENT, Bucket, plan_buckets


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], set[int], int, int, tuple[Bucket, ...]]:
    sizes = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
    alone = draw(st.sets(st.integers(0, len(sizes) - 1)))
    num_shards, least = draw(st.integers(1, 9)), draw(st.integers(1, 3000))
    return sizes, alone, num_shards, least, plan_buckets(sizes, alone, num_shards, least)


@given(plans())
def test_every_parameter_has_one_slot_of_its_size_and_slots_do_not_overlap(
    plan: tuple[list[int], set[int], int, int, tuple[Bucket, ...]],
) -> None:
    sizes, _, _, _, buckets = plan
    slots = [slot for bucket in buckets for slot in bucket.slots]
    assert sorted((slot.index, slot.stop - slot.start) for slot in slots) == list(enumerate(sizes))
    for bucket in buckets:
        ends = [0, *(slot.stop for slot in bucket.slots)]
        assert all(slot.start >= end for slot, end in zip(bucket.slots, ends, strict=False))
        assert ends[-1] <= bucket.size
        assert all(slot.start % ALIGNMENT == 0 for slot in bucket.slots)


@given(plans())
def test_the_replicas_own_every_element_once(plan: tuple[list[int], set[int], int, int, tuple[Bucket, ...]]) -> None:
    sizes, _, num_shards, _, buckets = plan
    owned: dict[int, list[int]] = {index: [] for index in range(len(sizes))}
    for bucket in buckets:
        shards = [bucket.shard(replica) for replica in range(num_shards)]
        assert {shard.stop - shard.start for shard in shards} == {bucket.size // num_shards}
        starts = {slot.index: slot.start for slot in bucket.slots}
        for replica, shard in enumerate(shards):
            for piece in bucket.pieces(replica):
                elements = range(piece.in_parameter.start, piece.in_parameter.stop)
                owned[piece.index] += elements
                assert starts[piece.index] + elements.start == shard.start + piece.in_shard.start
                assert len(elements) == piece.in_shard.stop - piece.in_shard.start
    assert {index: sorted(elements) for index, elements in owned.items()} == {
        index: list(range(size)) for index, size in enumerate(sizes)
    }


@given(plans())
def test_all_buckets_but_the_last_are_full_and_those_alone_come_at_the_end(
    plan: tuple[list[int], set[int], int, int, tuple[Bucket, ...]],
) -> None:
    sizes, alone, _, least, buckets = plan
    shared = buckets[: len(buckets) - len(alone)]
    assert [slot.index for bucket in shared for slot in bucket.slots] == [
        index for index in range(len(sizes)) if index not in alone
    ]
    assert [[slot.index for slot in bucket.slots] for bucket in buckets[len(shared) :]] == [[i] for i in sorted(alone)]
    for bucket in shared[:-1]:
        assert sum(sizes[slot.index] for slot in bucket.slots) >= least
