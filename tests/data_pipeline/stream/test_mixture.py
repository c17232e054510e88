"""The mixture gives each source its exact share of every block, in the source's own order, in any order of calls."""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.stream.mixture import Mixture, SourceShare, Stage, largest_remainder
from foretrain.data_pipeline.stream.order import Order, permute

NAMES = ["web", "code", "books", "maths"]
weights = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 1 / 3, 1.0, 2.5])
caps = st.none() | st.integers(1, 40).map(lambda tenths: tenths / 10)


LIMIT = 300
"""Samples that the plain version divides one by one."""


class WeightTooSmall(Exception):  # noqa: N818 (the oracle's own)
    """A source that is not exhausted has no sample in a full block."""


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a Mixture that are right in themselves."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    some_weight = st.fixed_dictionaries(dict.fromkeys(names, weights)).filter(lambda each: any(each.values()))
    of_stage_0 = draw(some_weight)
    sources = [SourceShare(name, draw(st.integers(10, 60)), of_stage_0[name], draw(caps)) for name in names]
    starts = sorted(draw(st.sets(st.integers(1, 200), max_size=3)))
    stages = [Stage(start, {name: w for name, w in draw(some_weight).items() if w}) for start in starts]
    return {
        "sources": sources,
        "stages": stages,
        "seed": draw(st.integers(0, 2**63 - 1)),
        "block": draw(st.sampled_from([1, 5, 16, 17, 24, 30, 32, 48, 64, 100])),
    }


def made(arguments: dict[str, Any]) -> Mixture | None:
    """The mixture, or None if a weight is too small for the block."""
    try:
        return Mixture(**arguments)
    except ValueError as error:
        if "rounds to none" not in str(error):
            raise
        return None


def nearest_shares(weight_of: dict[int, Fraction], total: int) -> dict[int, int]:
    """The method of the largest remainder, one sample at a time."""
    quota = {j: total * weight / sum(weight_of.values()) for j, weight in weight_of.items()}
    shares = {j: int(each) for j, each in quota.items()}
    remainder = {j: quota[j] - shares[j] for j in quota}
    while sum(shares.values()) < total:
        first = max(remainder, key=lambda j: (remainder[j], -j))
        shares[first] += 1
        remainder[first] = Fraction(-1)
    return shares


def walk(
    sources: list[SourceShare], stages: list[Stage], seed: int, block: int, limit: int
) -> tuple[list[tuple[int, int, int]], bool]:
    """(source, k, stage) of every global sample from 0 on, block by block, and whether the mixture ends."""
    cap = {
        j: None if s.max_epochs is None else int(Decimal(str(s.max_epochs)) * s.num_samples)
        for j, s in enumerate(sources)
    }
    given = dict.fromkeys(cap, 0)
    dealt: list[tuple[int, int, int]] = []
    bounds = [stage.from_sample for stage in stages]
    stage, number = 0, 0
    while len(dealt) < limit:
        named = stages[stage - 1].weights if stage else {s.name: s.weight for s in sources}
        still = {}
        for j, source in enumerate(sources):
            rest = cap[j]
            if named.get(source.name, 0) and (rest is None or given[j] < rest):
                still[j] = Fraction(str(named[source.name]))
        if not still:
            return dealt, True
        shares = nearest_shares(still, block)
        if 0 in shares.values():
            raise WeightTooSmall
        fixed: dict[int, int] = {}
        while over := {j: rest for j in shares if (rest := cap[j]) is not None and given[j] + shares[j] > rest}:
            fixed |= {j: rest - given[j] for j, rest in over.items()}
            still = {j: weight for j, weight in still.items() if j not in fixed}
            shares = nearest_shares(still, block - sum(fixed.values())) if still else {}
        shares |= fixed
        in_order = [j for j in sorted(shares) for _ in range(shares[j])]
        places = permute(np.arange(len(in_order)), len(in_order), f"mixture/{seed}/{stage}/{number}".encode())
        number += 1
        for place in places.tolist():
            j = in_order[place]
            dealt.append((j, given[j], stage))
            given[j] += 1
            if stage < len(bounds) and len(dealt) == bounds[stage]:
                stage, number = stage + 1, 0
                break
    return dealt[:limit], False


def check_against_walk(arguments: dict[str, Any], data: st.DataObject) -> None:
    """Check that `locate`, `counts` and `stage` give what the walk from the first sample gives."""
    mixture = made(arguments)
    if mixture is None:
        with pytest.raises(WeightTooSmall):
            walk(**arguments, limit=3000)
        return
    dealt, ends = walk(**arguments, limit=LIMIT)
    expected = np.array(dealt).reshape(-1, 3)
    source, k = mixture.locate(np.arange(len(dealt)))
    assert np.array_equal(source, expected[:, 0])
    assert np.array_equal(k, expected[:, 1])
    if len(dealt) < LIMIT:
        assert ends
        assert mixture.num_samples == len(dealt)
    else:
        assert mixture.num_samples is None or mixture.num_samples >= LIMIT
    for n in {0, len(dealt), *data.draw(st.lists(st.integers(0, len(dealt)), max_size=5))}:
        assert mixture.counts(n).tolist() == np.bincount(expected[:n, 0], minlength=len(mixture.sources)).tolist()
    for g in data.draw(st.lists(st.integers(0, len(dealt) - 1), max_size=5)):
        assert mixture.stage(g) == expected[g, 2]


@settings(max_examples=40)
@given(arguments=mixtures(), data=st.data())
def test_locate_counts_and_stage_are_those_of_a_walk_from_the_first_sample(
    arguments: dict[str, Any], data: st.DataObject
) -> None:
    check_against_walk(arguments, data)


@pytest.mark.long
@settings(max_examples=400)
@given(arguments=mixtures(), data=st.data())
def test_many_more_mixtures_are_those_of_a_walk_from_the_first_sample(
    arguments: dict[str, Any], data: st.DataObject
) -> None:
    check_against_walk(arguments, data)


@settings(max_examples=40)
@given(arguments=mixtures(), data=st.data())
def test_a_sample_does_not_depend_on_other_samples(arguments: dict[str, Any], data: st.DataObject) -> None:
    mixture = made(arguments)
    assume(mixture)
    assert mixture is not None
    end = mixture.num_samples or 10**12
    g = np.array(data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=20)))
    source, k = mixture.locate(g)
    fresh = pickle.loads(pickle.dumps(mixture))
    assert [tuple(map(int, fresh.locate(each))) for each in g] == list(zip(source.tolist(), k.tolist(), strict=True))
    assert mixture.locate(g.reshape(-1, 1))[1].shape == (len(g), 1)
    assert fresh.locate(int(g[0]))[0].shape == ()
    # A sample's k is the number of those before it that its source gave, however far from the start.
    for each, j, its_k in zip(g.tolist(), source.tolist(), k.tolist(), strict=True):
        before, after = mixture.counts(each), mixture.counts(each + 1)
        assert before.sum() == each
        assert before[j] == its_k
        assert (after - before).tolist() == [int(j == other) for other in range(len(before))]


@settings(max_examples=30)
@given(arguments=mixtures(), window=st.none() | st.integers(1, 30))
def test_every_epoch_of_every_source_is_a_permutation(arguments: dict[str, Any], window: int | None) -> None:
    """With mixture and order together, no sample is lost and none comes twice in an epoch."""
    mixture = made(arguments)
    assume(mixture)
    assert mixture is not None
    source, k = mixture.locate(np.arange(min(mixture.num_samples or LIMIT, LIMIT)))
    for j, share in enumerate(mixture.sources):
        order = Order([0, share.num_samples // 2, share.num_samples], f"order/{j}", window)
        epoch, sample = order.at(k[source == j])
        for each in range(int(epoch.max(initial=-1)) + 1):
            visited = sample[epoch == each]
            assert len(np.unique(visited)) == len(visited)
            if each < epoch.max():
                assert len(visited) == share.num_samples


@settings(max_examples=40)
@given(arguments=mixtures(), data=st.data())
def test_a_stage_changes_nothing_before_it(arguments: dict[str, Any], data: st.DataObject) -> None:
    *earlier, last = arguments["stages"] or [Stage(data.draw(st.integers(1, 500)), {"web": 1.0})]
    longer, shorter = made({**arguments, "stages": [*earlier, last]}), made({**arguments, "stages": earlier})
    assume(longer and shorter)
    assert longer is not None and shorter is not None
    g = np.arange(min(last.from_sample, longer.num_samples or last.from_sample))
    assert [each.tolist() for each in longer.locate(g)] == [each.tolist() for each in shorter.locate(g)]


@given(weights=st.lists(st.integers(0, 10**6), min_size=1, max_size=8).filter(any), total=st.integers(0, 10**5))
def test_shares_are_the_largest_remainder(weights: list[int], total: int) -> None:
    shares = largest_remainder(weights, total)
    quotas = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert sum(shares) == total
    assert all(int(quota) <= share <= -(-quota // 1) for share, quota in zip(shares, quotas, strict=True))
    up = [quota % 1 for quota, share in zip(quotas, shares, strict=True) if share > quota]
    down = [quota % 1 for quota, share in zip(quotas, shares, strict=True) if share < quota]
    assert min(up, default=Fraction(1)) >= max(down, default=Fraction(0))


@pytest.mark.parametrize(
    ("weight_of", "block", "shares"),
    [
        ([0.7, 0.3], 4096, [2867, 1229]),
        ([7, 3], 4096, [2867, 1229]),
        ([1, 1, 1], 4096, [1366, 1365, 1365]),  # a tie goes to the first
        ([0.2, 0.3, 0.5], 15, [3, 5, 7]),  # 3, 4.5, 7.5: a tie in decimals, though not in binary fractions
        ([0.1, 0.1, 0.2], 6, [2, 1, 3]),
        ([1e-3, 1], 1001, [1, 1000]),
    ],
)
def test_every_block_has_exactly_its_shares(weight_of: list[float], block: int, shares: list[int]) -> None:
    mixture = Mixture([SourceShare(f"s{j}", 1000, w) for j, w in enumerate(weight_of)], seed=3, block=block)
    for first in (0, block, 10**6 * block):
        source, _ = mixture.locate(first + np.arange(block))
        assert np.bincount(source, minlength=len(shares)).tolist() == shares


def test_blocks_stages_and_seeds_have_different_orders() -> None:
    sources = [SourceShare("a", 10**6, 0.5), SourceShare("b", 10**6, 0.5)]
    mixture = Mixture(sources, [Stage(8192, {"a": 1, "b": 1})], seed=0)
    other = Mixture(sources, [Stage(8192, {"a": 1, "b": 1})], seed=1)
    blocks = [mixture.locate(first + np.arange(4096))[0] for first in (0, 4096, 8192)]
    blocks += [other.locate(np.arange(4096))[0]]
    for i, block in enumerate(blocks):
        assert abs(np.corrcoef(block, np.arange(4096))[0, 1]) < 0.06  # four standard deviations
        assert abs(np.corrcoef(block[1:], block[:-1])[0, 1]) < 0.06
        for another in blocks[:i]:
            assert abs(np.corrcoef(block, another)[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("max_epochs", "num_samples", "given"), [(0.29, 100, 29), (1, 77, 77), (4, 25, 100), (0.5, 7, 3)]
)
def test_a_source_gives_max_epochs_and_no_more(max_epochs: float, num_samples: int, given: int) -> None:
    capped = SourceShare("few", num_samples, 1.0, max_epochs)
    mixture = Mixture([SourceShare("many", 10**6, 1.0), capped], block=64)
    assert mixture.counts(10**6).tolist() == [10**6 - given, given]
    assert mixture.num_samples is None
    alone = Mixture([capped], block=64)
    assert alone.num_samples == given
    source, k = alone.locate(np.arange(given))
    assert k.tolist() == list(range(given))
    assert not source.any()


def test_the_other_sources_share_the_rest_of_the_block_in_which_a_source_ends() -> None:
    sources = [SourceShare("a", 14, 0.5, 1), SourceShare("b", 10**6, 0.3), SourceShare("c", 10**6, 0.2)]
    mixture = Mixture(sources, block=20)
    counts = [mixture.counts(20 * number) for number in range(4)]
    # 10 + 6 + 4; then the last 4 of a, and 16 shared 3 : 2 (9.6 and 6.4); then 20 shared 3 : 2.
    assert np.diff(counts, axis=0).tolist() == [[10, 6, 4], [4, 10, 6], [0, 12, 8]]


def test_a_source_that_ended_gives_nothing_in_later_stages() -> None:
    sources = [SourceShare("a", 10, 1.0, 1), SourceShare("b", 100, 1.0)]
    mixture = Mixture(sources, [Stage(50, {"a": 9, "b": 1})], block=10)
    assert mixture.counts(50).tolist() == [10, 40]
    assert mixture.counts(10**6).tolist() == [10, 10**6 - 10]


def test_one_source_without_a_cap_is_the_identity() -> None:
    mixture = Mixture([SourceShare("only", 10, 0.3)])
    g = np.array([[0, 5], [10**15, 3]])
    source, k = mixture.locate(g)
    assert not source.any()
    assert np.array_equal(k, g)
    assert k is not g
    assert mixture.counts(10**15).tolist() == [10**15]


def test_a_sample_beyond_the_end_is_refused_with_the_numbers() -> None:
    mixture = Mixture([SourceShare("web", 100, 0.7, 2), SourceShare("code", 30, 0.3, 0.5)], block=16)
    assert mixture.num_samples == 215
    assert mixture.counts(215).tolist() == [200, 15]
    mixture.locate(214)
    expected = (
        r"ends after 215 samples, and 216 are asked for. It has 200 of web \(max_epochs = 2 of 100\), "
        r"15 of code \(max_epochs = 0.5 of 30\): raise max_epochs"
    )
    with pytest.raises(ValueError, match=expected):
        mixture.locate(np.array([3, 215, 7]))
    with pytest.raises(ValueError, match=expected):
        mixture.counts(216)


A, B = SourceShare("a", 100, 0.5), SourceShare("b", 100, 0.5)


@pytest.mark.parametrize(
    ("sources", "stages", "message"),
    [
        ([], [], "needs a source"),
        ([A, A], [], "named a, a: give each a name"),
        ([A, SourceShare("b", 0, 1.0)], [], "b has no sample"),
        ([A, SourceShare("b", 9, -0.1)], [], "weight of b is -0.1"),
        ([A, SourceShare("b", 9, float("nan"))], [], "weight of b is nan"),
        ([A, SourceShare("b", 9, float("inf"))], [], "weight of b is inf"),
        ([SourceShare("a", 9, 0.0)], [], "no source has a weight: give one"),
        ([A, SourceShare("b", 9, 1.0, 0)], [], "max_epochs = 0 of b must be a positive"),
        ([A, SourceShare("b", 9, 1.0, float("nan"))], [], "max_epochs = nan of b"),
        ([A, SourceShare("b", 9, 1.0, 0.1)], [], "b, which has 9 samples, is less than one sample: raise it"),
        ([A, SourceShare("b", 9, 1e-5)], [], r"b has so little weight .* \(0.082\) rounds to none: raise its weight"),
        ([A, B], [Stage(5, {"a": 1, "b": 1e-5})], "b has so little weight in stage 1"),
        ([A, B], [Stage(5, {"c": 1, "a": 1})], "stage 1 weighs c, but the sources are a, b"),
        ([A, B], [Stage(5, {"a": -1})], "weight of a in stage 1 is -1"),
        ([A, B], [Stage(5, {"a": 0})], "no source has a weight in stage 1"),
        ([A, B], [Stage(5, {})], "no source has a weight in stage 1"),
        ([A, B], [Stage(0, {"a": 1})], "stage 1 begins at sample 0: it must begin after sample 0"),
        ([A, B], [Stage(9, {"a": 1}), Stage(9, {"b": 1})], "stage 2 begins at sample 9: it must begin after sample 9"),
    ],
)
def test_an_impossible_mixture_is_refused_with_what_to_change(
    sources: list[SourceShare], stages: list[Stage], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("weight .*", "weight.*")):
        Mixture(sources, stages)
    with pytest.raises(ValueError, match="the block must be positive"):
        Mixture([A], block=0)


def test_a_mixture_of_ten_million_blocks_is_made_without_a_walk_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def counted(weights: Sequence[int], total: int) -> list[int]:
        computed.append(total)
        return largest_remainder(weights, total)

    monkeypatch.setattr("foretrain.data_pipeline.stream.mixture.largest_remainder", counted)
    samples = 4096 * 10**7
    sources = [SourceShare("web", samples, 0.7, 1), SourceShare("code", samples // 9, 0.2, 1.5)]
    mixture = Mixture(
        [*sources, SourceShare("books", samples, 0.1)], [Stage(samples // 2 + 7, {"web": 1.0, "books": 2.0})]
    )
    assert mixture.counts(samples).sum() == samples
    assert 0 < len(computed) < 20


def test_several_threads_may_share_a_mixture() -> None:
    sources = [SourceShare("a", 1000, 0.6, 3), SourceShare("b", 1000, 0.4)]
    g = np.random.default_rng(0).integers(0, 10**6, (64, 40))
    expected = [Mixture(sources).locate(each)[1].tolist() for each in g]
    shared = Mixture(sources)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: shared.locate(each)[1].tolist(), g)) == expected


def test_the_mixture_never_changes_between_versions() -> None:
    mixture = Mixture([SourceShare("a", 50, 0.6), SourceShare("b", 50, 0.4)], [Stage(15, {"b": 1, "a": 3})], 7, 10)
    source, k = mixture.locate(np.arange(8, 24))
    assert source.tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert k.tolist() == [2, 3, 6, 7, 4, 8, 9, 10, 5, 11, 12, 13, 14, 6, 15, 16]


def test_mixture_imports_no_heavy_package() -> None:
    heavy = "('torch', 'tokenizers', 'rich')"
    code = f"import sys, foretrain.data_pipeline.stream.mixture; print([m for m in sys.modules if m in {heavy}])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
