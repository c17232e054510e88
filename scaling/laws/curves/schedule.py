"""Schedules of the learning rate, and their changes in groups, so that laws of curves are evaluated fast. Pure.

Laws of curves sum over all changes of the rate before a step, and a cosine changes the rate in every step. What a
change adds depends on the sum of the rates since then, and on the rate after it. Changes that are close together, seen
from the step, therefore add almost the same, and are replaced by one in their middle. Which changes are close is
decided as in tree codes for gravity (Barnes and Hut, Nature 324, 1986): the changes are in a binary tree, and a node is
divided if it is wide beside its distance. The number of terms of a step grows with the logarithm of that of changes.

Letters of shapes: T steps of a schedule, N steps at which a law is evaluated, K changes, M terms of all N steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Floats = np.ndarray
Integers = np.ndarray

GROUPING = 0.1
"""Width of a group of changes beside its distance, and the largest difference of the logarithms of its rates. The loss
differs from that of the full sum by less than 1e-6 of it for smooth schedules, and less than 1e-5 for noisy ones."""
LEAST_RATE = 1e-300
"""Stands for a rate of zero where its logarithm is needed."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The learning rate of each step of a run, from its first step on.

    Raises ValueError unless the rates are finite numbers of at least zero, some of them greater than zero.
    """

    rate_T: Floats

    def __post_init__(self) -> None:
        rate_T = np.array(self.rate_T, dtype=float)
        if rate_T.ndim != 1 or not len(rate_T):
            raise ValueError(f"a schedule is a list of rates, one for each step; this has the shape {rate_T.shape}")
        bad = np.flatnonzero(~(np.isfinite(rate_T) & (rate_T >= 0)))
        if len(bad):
            raise ValueError(f"the learning rate of step {bad[0]} is {rate_T[bad[0]]:g}: it must be a number >= 0")
        if not rate_T.any():
            raise ValueError("the learning rate is zero in all steps, so nothing is learned: leave this run out")
        object.__setattr__(self, "rate_T", rate_T)

    @cached_property
    def sums(self) -> Floats:
        """The sum of the rates up to each of the T steps, with its own."""
        return np.cumsum(self.rate_T)

    @cached_property
    def num_warmup_steps(self) -> int:
        """Steps of the warm-up: those before the rate reaches the highest value that it has before it falls.

        A schedule that begins with its highest rate has none.
        """
        falls = np.diff(self.rate_T) < 0
        return int(np.argmax(self.rate_T[: int(np.argmax(falls)) + 1] if falls.any() else self.rate_T))

    @cached_property
    def changes(self) -> Integers:
        """The K steps after the warm-up whose rate differs from that of the step before."""
        after = np.arange(self.num_warmup_steps + 1, len(self.rate_T))
        return after[self.rate_T[after] != self.rate_T[after - 1]]

    def terms(self, step_N: Integers, grouping: float = GROUPING) -> "Terms":
        """What a law of curves needs to know about each of some steps: the changes of the rate up to it, in groups.

        `grouping`: the greatest width of a group of changes beside its distance from the step; 0: no groups. Raises
        ValueError as `check` does.
        """
        step_N = self.check(step_N)
        found = [part for tree in self._trees for part in self._parts(tree, step_N, grouping)]
        point_M, drop_M, log_rate_M, since_M = (np.concatenate(columns) for columns in zip(*found, strict=True))
        with np.errstate(divide="ignore"):  # a rate that has become zero has a sum of zero since then
            return Terms(self.sums[step_N], point_M, drop_M, log_rate_M, np.log(since_M))

    def check(self, step_N: Integers) -> Integers:
        """The steps, if laws of curves describe them.

        Raises ValueError if a step is not one of the schedule, or belongs to its warm-up.
        """
        step_N = np.asarray(step_N)
        if step_N.ndim != 1 or not np.issubdtype(step_N.dtype, np.integer):
            raise ValueError("steps must be a list of integers")
        wrong = step_N[(step_N < self.num_warmup_steps) | (step_N >= len(self.rate_T))]
        if len(wrong):
            raise ValueError(
                f"step {wrong[0]} is not one of the steps {self.num_warmup_steps} to {len(self.rate_T) - 1}, which "
                "come after the warm-up and have a learning rate: leave it out"
            )
        return step_N

    def _parts(
        self, levels: list["_Nodes"], step_N: Integers, grouping: float
    ) -> Iterator[tuple[Integers, Floats, Floats, Floats]]:
        """Terms from one level of a tree after the other: step, drop, logarithm of the rate, and sum of rates since."""
        point_M, node_M = np.arange(len(step_N)), np.zeros(len(step_N), dtype=int)
        for height, nodes in reversed(list(enumerate(levels))):
            started = nodes.first_step[node_M] <= step_N[point_M]  # what is after the step contributes nothing
            point_M, node_M = point_M[started], node_M[started]
            now = self.sums[step_N[point_M]]
            small = (nodes.last_step[node_M] <= step_N[point_M]) & (
                nodes.width[node_M] <= grouping * (now - nodes.last_sum[node_M])
            )
            small &= nodes.log_rate_range[node_M] <= grouping
            done = small if height else np.ones(len(node_M), dtype=bool)
            of, at = node_M[done], point_M[done]
            yield at, nodes.drop[of], nodes.log_rate[of], now[done] - nodes.mean_sum[of]
            point_M, node_M = np.repeat(point_M[~done], 2), np.repeat(2 * node_M[~done], 2)
            node_M[1::2] += 1

    @cached_property
    def _trees(self) -> list[list["_Nodes"]]:
        """One tree of the drops, and one of the rises: a mean that is weighted by changes needs changes of one sign."""
        drop_K = self.rate_T[self.changes - 1] - self.rate_T[self.changes]
        return [self._tree(self.changes[sign * drop_K > 0]) for sign in (1, -1)]

    def _tree(self, change_K: Integers) -> list["_Nodes"]:
        """The levels of a binary tree over some changes: first the changes, last the root."""
        size = 1 << max(len(change_K) - 1, 0).bit_length()
        before = self.sums[change_K - 1]
        log_rate = np.log(np.maximum(self.rate_T[change_K], LEAST_RATE))
        drop = self.rate_T[change_K - 1] - self.rate_T[change_K]
        never = np.iinfo(np.int64).max

        def filled(values: Floats, filler: float) -> Floats:
            return np.concatenate([values, np.full(size - len(values), filler, dtype=values.dtype)])

        first = last = filled(change_K, never)
        mass, sums, rates = filled(drop, 0.0), filled(drop * before, 0.0), filled(drop * log_rate, 0.0)
        least_sum = greatest_sum = filled(before, 0.0)
        least_rate, greatest_rate = filled(log_rate, np.inf), filled(log_rate, -np.inf)
        levels: list[_Nodes] = []
        while True:
            mean_sum, mean_rate = (
                (greatest_sum, greatest_rate) if not levels else (_ratio(sums, mass), _ratio(rates, mass))
            )
            width, spread = greatest_sum - least_sum, greatest_rate - least_rate
            levels.append(_Nodes(first, last, mass, mean_sum, mean_rate, width, greatest_sum, spread))
            if len(mass) == 1:
                return levels
            first, last = first[::2], last[1::2]
            mass, sums, rates = (values[::2] + values[1::2] for values in (mass, sums, rates))
            least_sum, greatest_sum = least_sum[::2], greatest_sum[1::2]
            least_rate = np.minimum(least_rate[::2], least_rate[1::2])
            greatest_rate = np.maximum(greatest_rate[::2], greatest_rate[1::2])


@dataclass(frozen=True, eq=False)
class Terms:
    """What a law of curves needs to know about N steps of a schedule. Some terms stand for many changes of the rate."""

    sum_N: Floats
    """The sum of the rates up to each step, with those of the warm-up."""
    point_M: Integers
    """To which of the N steps a term belongs."""
    drop_M: Floats
    """By how much the rate falls; less than zero if it rises."""
    log_rate_M: Floats
    """The logarithm of the rate after the change."""
    log_since_M: Floats
    """The logarithm of the sum of the rates from the change up to the step, with both."""

    def total(self, value_M: Floats) -> Floats:
        """The sums of the terms of each step."""
        return np.bincount(self.point_M, weights=value_M, minlength=len(self.sum_N))


def _ratio(sums: Floats, mass: Floats) -> Floats:
    """Weighted means from weighted sums; zero where there is no weight."""
    return np.divide(sums, mass, out=np.zeros_like(sums), where=mass != 0)


@dataclass(frozen=True, eq=False)
class _Nodes:
    """One level of a tree of changes. Means are weighted by the drops."""

    first_step: Integers
    last_step: Integers
    drop: Floats
    mean_sum: Floats
    log_rate: Floats
    width: Floats
    """Between the sums of the rates before the first change, and before the last one."""
    last_sum: Floats
    log_rate_range: Floats
