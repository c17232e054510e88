"""Trains the models of a coordinate check on processes of this machine, several at once if there are cores or GPUs."""

import pickle
from collections import deque
from collections.abc import Mapping

from foretrain.launcher.local.forkserver import PRELOAD
from foretrain.launcher.local.pool import Call, CallEnd, RankPool
from foretrain.launcher.local.slots import local_slots
from foretrain.scaling.console import StudyProgress
from foretrain.scaling.coord_check.judge import Measured
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Device, Rung
from foretrain.scaling.coord_check.verdict import CoordCheckVerdict, judge

MEASURE = "foretrain.trainer.mup.coordinates:measure"
TIMEOUT_S = 1800.0
"""A model that takes longer hangs. Collectives of a rank time out sooner than that."""

_PRELOAD = (*PRELOAD, "foretrain.trainer.mup.coordinates")


def device_of(name: str) -> Device:
    """The device for `--device auto`, `cpu` or `cuda`. Raises ValueError for cuda on a machine without a GPU."""
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
    """Train every model of the plan and judge them: the statistics of each rung by seed, and the verdict.

    Ranks run the function named `target`: tests plant bugs there. Call it from the main thread.
    """
    measured: dict[Rung, list[Measured]] = {}
    problems = []
    waiting = deque(_call(plan, rung, target) for rung in plan.rungs)
    pool = RankPool(slots(plan), preload=_PRELOAD)
    for end in pool.run(waiting, on_start=lambda call: progress.start(call.key)):
        rung, problem = end.call.key, _problem(end)
        if problem is None:
            measured[rung] = end.values()[0]
        else:
            problems.append(f"{rung}: {problem}")
        progress.end(rung, problem or "measured", end.wall_s)
    return measured, judge(plan, measured, problems)


def slots(plan: CoordCheckPlan) -> list[Mapping[str, str]]:
    """Where the models train. Raises ValueError if the layout has more ranks than this machine can hold."""
    return local_slots(plan.layout.world_size, on_gpus=plan.device == "cuda")


def _call(plan: CoordCheckPlan, rung: Rung, target: str) -> Call:
    """The ranks that train the models of one rung, one seed after the other."""
    args = (plan.configs_of(rung), plan.layout, plan.num_steps)
    return Call(rung, target, args, plan.layout.world_size, keep_result=True, timeout_s=TIMEOUT_S)


def _problem(end: CallEnd) -> str | None:
    if end.problem is not None:
        return end.problem
    values = end.values()
    if len(values) < end.call.world_size:
        return "a rank exited before it returned its statistics"
    if any(pickle.dumps(value) != pickle.dumps(values[0]) for value in values):
        return "the ranks report different statistics"
    return None
