"""The stream has the same samples in the same order for any corpora, mixture and number of ranks."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.errors import UnreadableError
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.data_pipeline.stream.batches import Batches
from foretrain.data_pipeline.stream.mixture import Mixture, SourceShare, Stage
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.packing import Samples, open_samples
from foretrain.data_pipeline.stream.samples import SampleStream, Source
from tests.data_pipeline.stream.memory_stream import EOT, MemoryStream

FOLDER = Path("/nowhere")
PACKINGS = ("windows", "documents")


@dataclass(frozen=True)
class Case:
    """A stream, and the streams of tokens that it is made of."""

    stream: SampleStream
    memories: list[MemoryStream]


def make_case(
    memories: list[MemoryStream],
    weights: list[float],
    *,
    seq_len: int,
    packing: str = "windows",
    window: int | None = None,
    block: int = 16,
    stages: list[Stage] | None = None,
    seed: int = 0,
    replaces_unreadable: bool = False,
) -> Case:
    sources, shares = [], []
    for number, (memory, weight) in enumerate(zip(memories, weights, strict=True)):
        name = f"source{number}"
        samples: Samples = open_samples(memory.as_stream(), seq_len, packing)  # type: ignore[arg-type]
        order = Order(samples.shard_starts, f"order/{seed}/{name}", window)
        sources.append(Source(name, memory.as_stream(), samples, order))
        shares.append(SourceShare(name, samples.num_samples, weight))
    mixture = Mixture(shares, stages or [], seed, block)
    stream = SampleStream(sources, mixture, seq_len, seed, replaces_unreadable=replaces_unreadable)
    return Case(stream, memories)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seq_len = draw(st.integers(1, 12))
    memories = []
    for _ in range(draw(st.integers(1, 3))):
        doc_lens = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
        doc_lens[0] += seq_len + 1
        cuts = draw(st.lists(st.integers(1, sum(doc_lens) - 1), max_size=3, unique=True))
        memories.append(MemoryStream(FOLDER, doc_lens, sorted(cuts)))
    block = draw(st.integers(8, 40))
    weights = [draw(st.floats(0.3, 1.0)) for _ in memories]
    stages = []
    if draw(st.booleans()):
        last = f"source{len(memories) - 1}"
        stages = [Stage(draw(st.integers(1, 100)), {last: 1.0})]
    return make_case(
        memories,
        weights,
        seq_len=seq_len,
        packing=draw(st.sampled_from(PACKINGS)),
        window=draw(st.none() | st.integers(1, 20)),
        block=block,
        stages=stages,
        seed=draw(st.integers(0, 2**31)),
    )


def check_ranks(case: Case, first: int, size: int, data: st.DataObject) -> None:
    """Check that ranks whose number changes from step to step together read what one process reads."""
    divisors = [dp for dp in range(1, size + 1) if size % dp == 0]
    num_steps = 5
    alone = case.stream.read(first + np.arange(num_steps * size))
    for step in range(num_steps):
        dp_size = data.draw(st.sampled_from(divisors))
        ranks = [Batches(case.stream, size, rank, dp_size) for rank in range(dp_size)]
        batches = [rank.batch(first + step * size) for rank in ranks]
        rows = slice(step * size, (step + 1) * size)
        assert np.array_equal(np.concatenate([batch.tokens_BL for batch in batches]), alone.tokens_BL[rows])
        assert np.array_equal(np.concatenate([batch.targets_BL for batch in batches]), alone.targets_BL[rows])
        if alone.positions_BL is not None:
            positions = [batch.positions_BL for batch in batches if batch.positions_BL is not None]
            assert np.array_equal(np.concatenate(positions), alone.positions_BL[rows])


@settings(max_examples=40)
@given(case=cases(), first=st.integers(0, 10**10), size=st.sampled_from([1, 4, 12, 24]), data=st.data())
def test_the_ranks_together_read_what_one_process_reads_also_when_their_number_changes(
    case: Case, first: int, size: int, data: st.DataObject
) -> None:
    check_ranks(case, first, size, data)


@pytest.mark.long
@settings(max_examples=400)
@given(case=cases(), first=st.integers(0, 10**10), size=st.sampled_from([1, 4, 12, 24]), data=st.data())
def test_the_ranks_of_many_more_streams_read_what_one_process_reads(
    case: Case, first: int, size: int, data: st.DataObject
) -> None:
    check_ranks(case, first, size, data)


@settings(max_examples=15)
@given(case=cases())
def test_each_epoch_of_a_source_gives_each_of_its_samples_once_and_then_all_again(case: Case) -> None:
    num_samples = 3 * sum(source.samples.num_samples for source in case.stream.sources) + 100
    given_by: dict[str, list[tuple[int, int]]] = {}
    for location in case.stream.locate(np.arange(num_samples)):
        given_by.setdefault(location.source.name, []).append((location.epoch, location.sample))
    for source in case.stream.sources:
        drawn = given_by.get(source.name, [])
        n = source.samples.num_samples
        for epoch in range(len(drawn) // n):
            assert sorted(drawn[epoch * n : (epoch + 1) * n]) == [(epoch, sample) for sample in range(n)]
        rest = drawn[len(drawn) // n * n :]
        assert all(epoch == len(drawn) // n for epoch, _ in rest)
        assert max(Counter(rest).values(), default=1) == 1


@settings(max_examples=50)
@given(case=cases(), g=st.integers(0, 10**10))
def test_a_sample_is_the_tokens_of_its_spans(case: Case, g: int) -> None:
    batch = case.stream.read(np.array([g]))
    (location,) = case.stream.locate(np.array([g]))
    memory = case.memories[int(location.source.name.removeprefix("source"))]
    for span in location.source.samples.spans(location.sample):
        at, end = span.at, span.at + span.count
        assert np.array_equal(batch.tokens_BL[0, at:end], memory.read(span.start, span.count))
        assert np.array_equal(batch.targets_BL[0, at:end], memory.read(span.start + 1, span.count))


def test_no_rank_and_no_call_changes_what_another_one_reads() -> None:
    case = make_case([MemoryStream(FOLDER, [50] * 20), MemoryStream(FOLDER, [30] * 9)], [0.7, 0.3], seq_len=8)
    g = np.random.default_rng(0).permutation(500)
    full = case.stream.read(np.arange(500)).tokens_BL
    assert np.array_equal(case.stream.read(g).tokens_BL, full[g])


# ---- samples that cannot be read ----


class Holey(MemoryStream):
    """A stream with tokens that cannot be read."""

    holes: frozenset[int] = frozenset()

    def read(self, start: int, count: int) -> np.ndarray:
        if any(start <= hole < start + count for hole in self.holes):
            raise UnreadableError(f"no token {min(self.holes)}", self.shard_names[0], 2 * min(self.holes))
        return super().read(start, count)


def holey(holes: set[int], packing: str = "documents", *, replaces: bool = True) -> SampleStream:
    memory = Holey(FOLDER, [20] * 40)
    case = make_case([memory], [1.0], seq_len=16, packing=packing, replaces_unreadable=replaces)
    memory.holes = frozenset(holes)
    return case.stream


def test_an_unreadable_sample_is_an_error_if_none_may_be_replaced() -> None:
    with pytest.raises(UnreadableError, match="no token 100"):
        holey({100}, replaces=False).read(np.arange(49))


def test_an_unreadable_sample_is_replaced_by_the_same_other_one_whoever_reads_it() -> None:
    stream, sound = holey({100, 333}), holey(set())
    full, expected = stream.read(np.arange(49)), sound.read(np.arange(49))
    replaced = {each.g: each for each in full.replaced}
    assert {each.sample for each in replaced.values()} == {100 // 16, 333 // 16}
    for g in range(49):
        alone = stream.read(np.array([g]))
        assert np.array_equal(alone.tokens_BL[0], full.tokens_BL[g])
        if g in replaced:
            (again,) = alone.replaced
            assert again == replaced[g] and again.used != again.sample
            assert (again.shard, again.offset_bytes, again.why) == ("train-000000.tar", 200, "no token 100")
            assert (
                np.array_equal(alone.targets_BL[0], np.arange(1, 17) + 16 * again.used + 1) or EOT in alone.targets_BL
            )
        else:
            assert not alone.replaced
            assert np.array_equal(alone.tokens_BL[0], expected.tokens_BL[g])


def test_replacing_is_an_error_if_nothing_can_be_read() -> None:
    with pytest.raises(UnreadableError, match=r"nor can any of 32 other samples be read"):
        holey(set(range(800))).read(np.arange(2))


def test_all_targets_are_tokens_if_there_is_no_padding() -> None:
    batch = holey(set(), "windows").read(np.arange(49))
    assert batch.num_padding == 0 and not (batch.targets_BL == IGNORE).any()
