"""Runs the trials of a verification on processes of this machine, and judges each."""

import time
from dataclasses import replace

from foretrain.launcher.local.forkserver import PRELOAD
from foretrain.launcher.local.run import RankError, call_local
from foretrain.launcher.local.slots import visible_gpus
from foretrain.parallel.layout import Layout
from foretrain.scaling.console import StudyProgress
from foretrain.scaling.verify.plan import LayoutTrial, Precision, VerifyPlan
from foretrain.scaling.verify.verdict import Expected, LayoutVerdict, judge
from foretrain.trainer.compilation.machine import check_machine
from foretrain.trainer.verification.curve import Curve

PROBE = "foretrain.trainer.verification.probe:probe"
REFERENCE = "foretrain.trainer.verification.reference:reference"
TIMEOUT_S = 600.0
"""A trial that takes longer hangs. Collectives of a rank time out sooner than that."""

_PRELOAD = (*PRELOAD, "foretrain.trainer.verification.probe")


def verify(plan: VerifyPlan, progress: StudyProgress[LayoutTrial], probe: str = PROBE) -> list[LayoutVerdict]:
    """Run every trial of the plan and judge it. Ranks run the function named `probe`: tests plant faults there."""
    progress.log(f"one process first, then {len(plan.trials)} trials")
    references = references_of(plan)
    progress.restart_clock()
    verdicts = []
    for trial in plan.trials:
        progress.start(trial)
        verdict = run_trial(plan, trial, references[trial.precision], probe)
        progress.end(trial, verdict.summary, verdict.wall_s)
        verdicts.append(verdict)
    return verdicts


def check_device(plan: VerifyPlan) -> None:
    """Raise ValueError unless this machine has what trials need: on GPUs, one for each process of every trial."""
    if plan.config.train.compile:
        check_machine()
    if plan.config.train.device == "cpu":
        return
    num_gpus, most = len(visible_gpus()), max(trial.layout.world_size for trial in plan.trials)
    if num_gpus < most:
        raise ValueError(
            f"--device cuda: {most} processes need a GPU each, and torch can use {num_gpus} here: choose smaller "
            "layouts (--layouts, --max-processes), or leave --device out"
        )


def references_of(plan: VerifyPlan) -> dict[Precision, Expected]:
    """The curves that the trials of each precision are compared with.

    For bf16, "one process" is the engine on one rank: plain torch keeps no fp32 masters, moments and sums.
    """
    exact, fp32 = (_call(REFERENCE, (plan.config, dtype, plan.num_steps), 1)[0] for dtype in ("float64", "float32"))
    references: dict[Precision, Expected] = {"fp32": Expected(fp32, exact)}
    if any(trial.precision == "bf16" for trial in plan.trials):
        alone = LayoutTrial(Layout(), "bf16")
        config = plan.config_of(alone)
        config = replace(config, train=replace(config.train, compile=False))
        bf16 = _call(PROBE, (config, alone.layout, plan.num_steps), 1)[0]
        references["bf16"] = Expected(bf16, exact)
    return references


def run_trial(plan: VerifyPlan, trial: LayoutTrial, expected: Expected, probe: str = PROBE) -> LayoutVerdict:
    """Run the ranks of a trial and judge their curve. If ranks fail, hang or disagree, the layout fails."""
    started_s = time.monotonic()
    try:
        curves = _call(probe, (plan.config_of(trial), trial.layout, plan.num_steps), trial.layout.world_size)
    except (RankError, TimeoutError) as error:
        problem = str(error).strip().splitlines()[-1]
        return LayoutVerdict(trial, None, None, False, (problem,), time.monotonic() - started_s)
    wall_s = time.monotonic() - started_s
    if any(curve != curves[0] for curve in curves):
        return LayoutVerdict(trial, None, None, False, ("the ranks report different curves",), wall_s)
    return judge(trial, curves[0], expected, wall_s)


def _call(target: str, args: tuple, world_size: int) -> list[Curve]:
    return call_local(target, args, world_size, preload=_PRELOAD, timeout_s=TIMEOUT_S)
