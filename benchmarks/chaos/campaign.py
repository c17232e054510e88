"""Runs that are killed again and again, judged against one that is not."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.attack import Attack, Kill
from benchmarks.chaos.target import Target, unused_shared_memory
from benchmarks.gpu.curves import Comparison, compare

LAYOUT_TOLERANCE = 1e-5
"""The greatest relative difference of loss and gradient norm in fp32 if the layout changes; else all bits agree."""


@dataclass(frozen=True)
class Verdict:
    """How one run survived."""

    changes_layout: bool
    kills: list[Kill]
    layouts: list[str]
    """The layout of each time that the command was started."""
    curve: Comparison
    has_same_records: bool
    """Whether all metrics of all steps, times excepted, are those of the calm run."""
    left: list[str]
    """Processes, temporary files, incomplete checkpoints and shared memory that the run has left behind."""

    @property
    def passed(self) -> bool:
        """Whether the run has the curve of the calm one and has left nothing behind."""
        difference = max(self.curve.loss, self.curve.grad_norm)
        return not self.left and (difference <= LAYOUT_TOLERANCE if self.changes_layout else self.has_same_records)

    def record(self) -> dict[str, Any]:
        """The verdict for a results file."""
        return {
            "passed": self.passed,
            "changes_layout": self.changes_layout,
            "kills": len(self.kills),
            "by_victim": dict(Counter(kill.victim for kill in self.kills)),
            "by_moment": dict(Counter(kill.moment for kill in self.kills)),
            "steps_at_kills": [kill.step for kill in self.kills],
            "commands_started": len(self.layouts),
            "layouts": dict(Counter(self.layouts)),
            **self.curve.record("curve"),
            "left": self.left,
        }


class Campaign:
    """Attacks on runs of one corpus, and the calm run that all are compared with."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        """Trains the calm run. `folder`: an existing folder for all runs; both paths are absolute."""
        self._folder, self._corpus, self._num_runs = folder, corpus, 0
        calm = self._target(changes_layout=False)
        Attack(calm, 0, random.Random(0)).run()
        self._calm = calm.curve()

    def attack(
        self, num_kills: int, *, changes_layout: bool, seed: int, on_kill: Callable[[Kill], None] = lambda kill: None
    ) -> Verdict:
        """Kill processes of a new run until `num_kills` are killed, let it end, and judge it.

        Raises ChaosError if the run ends without a kill, or is not started again after one.
        """
        target, before = self._target(changes_layout), unused_shared_memory()
        attack = Attack(target, num_kills, random.Random(seed), on_kill)
        attack.run()
        found = target.curve()
        left = target.left_behind(before)
        same = found == self._calm
        return Verdict(changes_layout, attack.kills, attack.layouts, compare(found, self._calm), same, left)

    def _target(self, changes_layout: bool) -> Target:
        self._num_runs += 1
        target = Target(self._folder / f"run-{self._num_runs}", self._corpus, changes_layout)
        target.folder.mkdir()
        return target
