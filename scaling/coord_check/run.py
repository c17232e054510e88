"""Runs the models of a coordinate check on processes of this machine, several at once where there are cores."""

import os
import pickle
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import Any

from foretrain.launcher.local.forkserver import PRELOAD
from foretrain.launcher.local.outcome import Returned
from foretrain.launcher.local.ranks import Ranks, started
from foretrain.launcher.local.report import first_failure, headline
from foretrain.scaling.console import StudyProgress
from foretrain.scaling.coord_check.judge import Measured
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Device, Rung
from foretrain.scaling.coord_check.verdict import CoordCheckVerdict, judge

MEASURE = "foretrain.trainer.mup.coordinates:measure"
TIMEOUT_S = 1800.0
"""A model that takes longer hangs. Collectives of a rank end sooner than that."""

_PRELOAD = (*PRELOAD, "foretrain.trainer.mup.coordinates")
_POLL_S = 0.05


class _Running:
    """The ranks that train the models of one rung, one seed after the other."""

    def __init__(self, plan: CoordCheckPlan, rung: Rung, target: str) -> None:
        self.rung = rung
        self._started_s = time.monotonic()
        self._until_ended = ExitStack()
        args = (plan.configs_of(rung), plan.layout, plan.num_steps)
        # The cores are shared out over models here, not over the threads of one.
        env = {"OMP_NUM_THREADS": "1"}
        ranks = started(target, args, plan.layout.world_size, env=env, preload=_PRELOAD, keep_result=True)
        self._ranks: Ranks = self._until_ended.enter_context(ranks)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._started_s

    def poll(self) -> bool:
        """Wait a moment, and return whether the ranks are done: all ended, one failed, or the time is up."""
        self._ranks.poll(_POLL_S)
        failed = first_failure(self._ranks.outcomes.values()) is not None
        return failed or not self._ranks.running or self.wall_s > TIMEOUT_S

    def end(self) -> list[Measured] | str:
        """End the ranks that still run, and return what the models showed, or what was wrong."""
        with self._until_ended:
            return self._result()

    def _result(self) -> list[Measured] | str:
        failure = first_failure(self._ranks.outcomes.values())
        if failure is not None:
            return headline(failure)
        if self._ranks.running:
            return f"ranks {self._ranks.running} still ran after {TIMEOUT_S:g} s"
        values = [_value(self._ranks.outcomes[rank].report) for rank in range(len(self._ranks.outcomes))]
        if any(pickle.dumps(value) != pickle.dumps(values[0]) for value in values):
            return "the ranks report different statistics"
        return values[0]


def device_of(name: str) -> Device:
    """What `auto` means on this machine. Raises ValueError for cuda where there is none."""
    if name == "cpu":
        return "cpu"
    import torch  # not at the top: it takes seconds

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise ValueError("--device cuda: this machine has no GPU that torch can use: leave it out, or use cpu")
    return "cpu"


def check(
    plan: CoordCheckPlan, progress: StudyProgress[Rung], target: str = MEASURE
) -> tuple[dict[Rung, list[Measured]], CoordCheckVerdict]:
    """Do all that is planned, and judge it."""
    measured, problems = measure(plan, progress, target)
    return measured, judge(plan, measured, problems)


def measure(
    plan: CoordCheckPlan, progress: StudyProgress[Rung], target: str = MEASURE
) -> tuple[dict[Rung, list[Measured]], list[str]]:
    """Train every model of the plan; return what those showed that ended well, and a line for each that did not.

    `target` names the function that ranks run: tests plant bugs in one. Call it from the main thread.
    """
    measured: dict[Rung, list[Measured]] = {}
    problems = []
    with closing(_ended(plan, progress, target)) as ended:
        for rung, wall_s, result in ended:
            if isinstance(result, str):
                problems.append(f"{rung}: {result}")
            else:
                measured[rung] = result
            progress.end(rung, result if isinstance(result, str) else "measured", wall_s)
    return measured, problems


def _ended(
    plan: CoordCheckPlan, progress: StudyProgress[Rung], target: str
) -> Generator[tuple[Rung, float, list[Measured] | str], None, None]:
    """Each rung as it ends, and how long it took: as many at once as there are cores for their ranks, one on a GPU."""
    num_at_once = max(1, len(os.sched_getaffinity(0)) // plan.layout.world_size) if plan.device == "cpu" else 1
    waiting, running = list(plan.rungs), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < num_at_once:
                progress.start(waiting[0])
                running.append(_Running(plan, waiting.pop(0), target))
            for each in [each for each in running if each.poll()]:
                wall_s, result = each.wall_s, each.end()
                running.remove(each)
                yield each.rung, wall_s, result
    finally:
        for each in running:
            each.end()


def _value(report: Any) -> Any:
    assert isinstance(report, Returned) and report.value is not None, f"a rank exited before it returned: {report}"
    return pickle.loads(report.value)
