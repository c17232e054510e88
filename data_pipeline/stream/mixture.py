"""Which source global sample g comes from, and which of that source's draws it is: a pure function of g.

Samples are divided among the sources in blocks. In each block a source has exactly its share, rounded by the method of
the largest remainder, and a permutation says which slots of the block it fills. A source gives its samples in its own
order, so g is the source's k-th draw if the source gave k samples before g. To count them needs no walk from 0: between
two events (a stage begins, a source reaches its `max_epochs`) all blocks are alike. These runs of alike blocks are few,
and are found when a Mixture is made.

Shape letters: N samples, J sources, T slots of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import isfinite, lcm

import numpy as np
import numpy.typing as npt

from foretrain.configs.checks import require
from foretrain.data_pipeline.stream.batch import IntArray
from foretrain.data_pipeline.stream.order import groups, permute

ENDLESS = 2**62
"""A number of samples that no run reaches."""


@dataclass(frozen=True)
class SourceShare:
    """One source of a mixture."""

    name: str
    num_samples: int
    """Samples of one epoch of the source."""
    weight: float
    """Share of the samples, relative to the weights of the other sources, until a stage changes it."""
    max_epochs: float | None = None
    """The source gives at most this many epochs, rounded down to a whole number of samples; None: no limit."""


@dataclass(frozen=True)
class Stage:
    """Weights that apply from one sample on. A source that is not named has weight 0."""

    from_sample: int
    weights: dict[str, float] = field(default_factory=dict)


class Mixture:
    """The division of global samples among sources.

    Each stage begins with a new block, and changes no sample before it. If a block asks a source for more samples than
    its `max_epochs` leaves, the source gives exactly what is left, the others share the rest of the block, and from the
    next block on the source's weight is 0. The mixture ends when no source of the stage has a sample left.

    Several threads may share a Mixture. Raises ValueError, which says what to change, for sources and stages that
    cannot be mixed.
    """

    def __init__(
        self, sources: Sequence[SourceShare], stages: Sequence[Stage] = (), seed: int = 0, block: int = 4096
    ) -> None:
        _check(sources, stages, block)
        self.sources, self.stages, self.seed, self.block = tuple(sources), tuple(stages), seed, block
        self._table = lru_cache(maxsize=8)(self._deal_slots)
        self._stage_starts: IntArray = np.array([0, *(stage.from_sample for stage in stages)], dtype=np.int64)
        self._runs: list[_Run] = []
        self.num_samples = self._find_runs()
        """Samples until the mixture ends; None: it does not end."""
        self._run_starts: IntArray = np.array([run.start for run in self._runs], dtype=np.int64)
        self._sizes: IntArray = np.array([run.size for run in self._runs], dtype=np.int64)
        self._identity = len(self.sources) == 1

    def locate(self, g: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """Return (source_number, k) of each global sample, int64 in the shape of g: it is that source's k-th draw.

        Raises ValueError for a sample beyond the end of the mixture.
        """
        g_N = np.array(g, dtype=np.int64).ravel()
        assert g_N.size == 0 or g_N.min() >= 0, "a global sample has a negative number"
        if g_N.size:
            self._check_end(int(g_N.max()) + 1)
        source_N, k_N = np.zeros_like(g_N), g_N
        if not self._identity:
            run_N = np.searchsorted(self._run_starts, g_N, side="right") - 1
            block_N, slot_N = np.divmod(g_N - self._run_starts[run_N], self._sizes[run_N])
            k_N = np.empty_like(g_N)
            for run, in_run in groups(run_N):
                for block, in_block in groups(block_N[in_run]):
                    here = in_run[in_block]
                    source_T, rank_T = self._table(run, block)
                    source = source_T[slot_N[here]]
                    source_N[here] = source
                    k_N[here] = self._runs[run].used_before(block)[source] + rank_T[slot_N[here]]
        return source_N.reshape(np.shape(g)), k_N.reshape(np.shape(g))

    def counts(self, num_samples: int) -> IntArray:
        """Return how many of the first `num_samples` global samples come from each source, shape (J,).

        Raises ValueError if the mixture ends earlier.
        """
        assert num_samples >= 0, f"num_samples = {num_samples} must not be negative"
        self._check_end(num_samples)
        if self._identity:
            return np.array([num_samples], dtype=np.int64)
        number = int(np.searchsorted(self._run_starts, num_samples, side="right")) - 1
        return self._used_after(number, num_samples - self._runs[number].start)

    def stage(self, g: int) -> int:
        """Return the number of the stage of sample g: 0 before the first of `stages`, 1 in the first, and so on."""
        return int(np.searchsorted(self._stage_starts, g, side="right")) - 1

    def weights(self, stage: int) -> dict[str, float]:
        """Return the weight of every source in a stage, by the source's name."""
        if stage == 0:
            return {source.name: source.weight for source in self.sources}
        return {source.name: self.stages[stage - 1].weights.get(source.name, 0.0) for source in self.sources}

    def __reduce__(self) -> tuple[type["Mixture"], tuple[tuple[SourceShare, ...], tuple[Stage, ...], int, int]]:
        return Mixture, (self.sources, self.stages, self.seed, self.block)

    def _find_runs(self) -> int | None:
        """Fill in the runs, and return the number of samples after which the mixture ends, or None.

        A run ends when its stage ends or when a source has no sample left.
        """
        caps = np.array([_cap(source) for source in self.sources], dtype=np.int64)
        used: IntArray = np.zeros_like(caps)
        stage_ends = [*self._stage_starts[1:].tolist(), ENDLESS]
        for stage, (stage_start, stage_end) in enumerate(zip(self._stage_starts.tolist(), stage_ends, strict=True)):
            weights = _integer_weights(list(self.weights(stage).values()))
            start = stage_start
            while start < stage_end:
                left = (caps - used).tolist()
                open_weights = [weight if rest else 0 for weight, rest in zip(weights, left, strict=True)]
                if not any(open_weights):
                    return start
                regular = largest_remainder(open_weights, self.block)
                self._check_shares(stage, open_weights, regular)
                shares = _shares_within(open_weights, regular, left)
                # 1 if a source ends in this block, because its share is then all that it has left.
                num_blocks = min(rest // share for rest, share in zip(left, shares, strict=True) if share)
                first_block = (start - stage_start) // self.block
                run = _Run(start, stage, first_block, sum(shares), np.array(shares, dtype=np.int64), used)
                self._runs.append(run)
                length = min(num_blocks * run.size, stage_end - start)
                start += length
                if start < ENDLESS:
                    used = self._used_after(len(self._runs) - 1, length)
        return None

    def _used_after(self, number: int, length: int) -> IntArray:
        """Return how many samples each source gave in the first `length` samples of a run and in all before it."""
        run = self._runs[number]
        block, slot = divmod(length, run.size)
        used = run.used_before(block)
        if slot:
            used = used + np.bincount(self._table(number, block)[0][:slot], minlength=len(used))
        return used

    def _deal_slots(self, number: int, block: int) -> tuple[IntArray, IntArray]:
        """Return the source of each slot of a block, and how many earlier slots of the block have the same source.

        Both have shape (T,) and the smallest integer type that holds them.
        """
        run = self._runs[number]
        num_sources = len(run.shares)
        sources_T = np.repeat(np.arange(num_sources, dtype=np.min_scalar_type(num_sources)), run.shares)
        if np.count_nonzero(run.shares) > 1:
            key = f"mixture/{self.seed}/{run.stage}/{run.first_block + block}".encode()
            sources_T = sources_T[permute(np.arange(run.size), run.size, key)]
        firsts = np.cumsum(run.shares) - run.shares
        rank_T = np.empty(run.size, dtype=np.min_scalar_type(run.size))
        rank_T[np.argsort(sources_T, kind="stable")] = np.arange(run.size) - np.repeat(firsts, run.shares)
        return sources_T, rank_T

    def _check_shares(self, stage: int, weights: list[int], shares: list[int]) -> None:
        for source, weight, share in zip(self.sources, weights, shares, strict=True):
            if weight and not share:
                raise ValueError(
                    f"{source.name} has so little weight{_in_stage(stage)} that its share of a block of {self.block} "
                    f"samples ({weight / sum(weights) * self.block:.2g}) rounds to none: raise its weight, or the block"
                )

    def _check_end(self, num_samples: int) -> None:
        if self.num_samples is None or num_samples <= self.num_samples:
            return
        counts = self._used_after(len(self._runs) - 1, self.num_samples - self._runs[-1].start)
        given = ", ".join(
            f"{count} of {source.name} (max_epochs = {source.max_epochs} of {source.num_samples})"
            for source, count in zip(self.sources, counts.tolist(), strict=True)
            if count
        )
        raise ValueError(
            f"the mixture ends after {self.num_samples} samples, and {num_samples} are asked for. It has {given}: "
            "raise max_epochs, add a source, or train on fewer tokens"
        )


@dataclass(frozen=True)
class _Run:
    """Consecutive blocks in which every source has the same share."""

    start: int
    """First sample of the run."""
    stage: int
    first_block: int
    """Number of the first block of the run, counted from the start of the stage."""
    size: int
    """Samples of a block; only the last block of a mixture has fewer than the others."""
    shares: IntArray
    """Samples of each source in a block, shape (J,)."""
    used: IntArray
    """Samples that each source gave before the run, shape (J,)."""

    def used_before(self, block: int) -> IntArray:
        """Return how many samples each source gave before a block of this run, shape (J,)."""
        return self.used + block * self.shares


def largest_remainder(weights: Sequence[int], total: int) -> list[int]:
    """Return whole numbers in about the ratios of the weights, with the sum `total`.

    Each share is its quota rounded down; what is missing goes to the largest remainders, among equal ones to the first.
    """
    weight_sum = sum(weights)
    shares = [total * weight // weight_sum for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda j: -(total * weights[j] % weight_sum))  # stable
    for j in by_remainder[: total - sum(shares)]:
        shares[j] += 1
    return shares


def _shares_within(weights: Sequence[int], regular: list[int], left: Sequence[int]) -> list[int]:
    """Return the shares of a block such that no source gives more than it has left.

    A source that is asked for more than that gives all it has, and the others share the rest of the block by weight.
    The sum of the shares is less than a block only if all sources end.
    """
    weights, rest = list(weights), sum(regular)
    shares, fixed = regular, [0] * len(regular)
    while over := [j for j, share in enumerate(shares) if share > left[j]]:
        for j in over:
            fixed[j], weights[j], rest = left[j], 0, rest - left[j]
        shares = largest_remainder(weights, rest) if any(weights) else [0] * len(regular)
    return [share + part for share, part in zip(shares, fixed, strict=True)]


def _integer_weights(weights: Sequence[float]) -> list[int]:
    """Return whole numbers in the same ratios. A weight counts as the decimal that is written: 0.1 is a tenth."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    return [int(weight * scale) for weight in exact]


def _cap(source: SourceShare) -> int:
    """Return the largest number of samples that a source gives."""
    if source.max_epochs is None:
        return ENDLESS
    return min(int(Fraction(repr(float(source.max_epochs))) * source.num_samples), ENDLESS)


def _check(sources: Sequence[SourceShare], stages: Sequence[Stage], block: int) -> None:
    """Raise ValueError for sources and stages that are wrong in themselves."""
    names = [source.name for source in sources]
    require(bool(names), "a mixture needs a source")
    require(len(set(names)) == len(names), f"sources are named {', '.join(names)}: give each a name of its own")
    require(block > 0, f"a block of {block} samples is impossible: the block must be positive")
    for source in sources:
        require(source.num_samples > 0, f"{source.name} has no sample: leave it out")
        if source.max_epochs is not None:
            valid = isfinite(source.max_epochs) and source.max_epochs > 0
            require(valid, f"max_epochs = {source.max_epochs} of {source.name} must be a positive number, or null")
            require(
                _cap(source) > 0,
                f"max_epochs = {source.max_epochs} of {source.name}, which has {source.num_samples} samples, is less "
                "than one sample: raise it, or leave the source out",
            )
    _check_weights({source.name: source.weight for source in sources}, 0)
    previous = 0
    for number, stage in enumerate(stages, start=1):
        unknown = ", ".join(sorted(stage.weights.keys() - set(names)))
        require(
            not unknown, f"stage {number} weighs {unknown}, but the sources are {', '.join(names)}: name one of them"
        )
        _check_weights(stage.weights, number)
        require(
            previous < stage.from_sample < ENDLESS,
            f"stage {number} begins at sample {stage.from_sample}: it must begin after sample {previous}, at which the "
            f"previous stage begins, and before {ENDLESS}",
        )
        previous = stage.from_sample


def _check_weights(weights: dict[str, float], stage: int) -> None:
    for name, weight in weights.items():
        require(
            isfinite(weight) and weight >= 0,
            f"the weight of {name}{_in_stage(stage)} is {weight}: it must be a number, and not negative",
        )
    require(any(weights.values()), f"no source has a weight{_in_stage(stage)}: give one a positive weight")


def _in_stage(stage: int) -> str:
    return f" in stage {stage}" if stage else ""
