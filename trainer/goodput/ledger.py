"""Seconds of a run's life by cause, computed from the facts of its ledger. Plain arithmetic.

The life of a run goes from its first fact to its last one, over all its starts. It is divided completely:

- A process measures, by a clock that never steps back, how long it did what; its lines say so.
- The time between the end of one line and the beginning of the next belongs to one cause, which the two facts decide.

So the sum over the causes is the last time minus the first one, if the clocks of all nodes agree. If the clock of a
later node is behind, the time between two starts is taken as shorter than it was, at the least as 0: no cause is
negative.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foretrain.trainer.goodput.causes import GOOD, LABELS, Cause
from foretrain.trainer.goodput.facts import Fact


@dataclass
class _Steps:
    """Steps that one line reports and that no later start has taken again."""

    before: int
    """The steps that were done before them."""
    last: int
    seconds: float


class Ledger:
    """The account of a run's life. `add` takes its facts in the order in which they were written."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self.seconds: dict[Cause, float] = dict.fromkeys(LABELS, 0.0)
        self.num_starts = 0
        """Starts that got as far as their first step."""
        self.num_lost = 0
        """Steps that were done and then taken again by a later start."""
        self._previous: Fact | None = None
        self._now_s = 0.0
        self._job = ""
        self._steps: list[_Steps] = []
        for fact in facts:
            self.add(fact)

    @property
    def life_s(self) -> float:
        """Seconds of the run's life: the sum over all causes."""
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[Cause, float]:
        """The share of each cause in the life of the run, from 0 to 1; all are 0 if there are no facts."""
        life_s = self.life_s
        return {cause: seconds / life_s if life_s else 0.0 for cause, seconds in self.seconds.items()}

    @property
    def goodput(self) -> float:
        """The share of the life that was spent on steps that count, from 0 to 1."""
        return self.shares[GOOD]

    def add(self, fact: Fact) -> None:
        """Account for the next fact."""
        measured_s = sum(fact.spent_s.values())
        if self._previous is not None:
            self.seconds[self._cause_between(self._previous, fact)] += max(0.0, fact.at_s - measured_s - self._now_s)
        for cause, seconds in fact.spent_s.items():
            self.seconds[cause] += seconds
        self.num_starts += fact.kind == "begin"
        if fact.step is not None:
            self._lose_after(fact.step - fact.steps)
            if fact.steps:
                self._steps.append(_Steps(fact.step - fact.steps, fact.step, fact.spent_s.get(GOOD, 0.0)))
        self._job = fact.job or self._job
        self._now_s = max(self._now_s, fact.at_s)
        self._previous = fact

    def _cause_between(self, before: Fact, after: Fact) -> Cause:
        """The cause of the time between two facts that no process has measured."""
        if after.kind == "start" and after.queued and (before.kind == "launch" or after.job == self._job):
            return "queue"
        if after.kind != "launch" and before.kind in ("launch", "start", "process"):
            return "start_up"
        return "down"

    def _lose_after(self, step: int) -> None:
        """Count the steps after `step`, which are taken again from now on, as lost."""
        while self._steps and self._steps[-1].last > step:
            steps = self._steps.pop()
            kept = max(0, step - steps.before)
            num_lost = steps.last - steps.before - kept
            # A checkpoint begins a new line, so that a line is divided only if that line could not be written.
            lost_s = steps.seconds * num_lost / (steps.last - steps.before)
            self.seconds[GOOD] -= lost_s
            self.seconds["lost"] += lost_s
            self.num_lost += num_lost
            if kept:
                self._steps.append(_Steps(steps.before, step, steps.seconds - lost_s))


def of_training(facts: Sequence[Fact]) -> Ledger:
    """The account up to the last line of rank 0: to launch a run that is complete does not prolong its life."""
    ends = [number for number, fact in enumerate(facts, start=1) if fact.kind in ("begin", "steps", "end")]
    return Ledger(facts[: max(ends, default=0)])
