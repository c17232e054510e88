"""Runs the trials of a plan on processes of this machine, and judges each."""

import time
from typing import Protocol

from foretrain.launcher.local.forkserver import PRELOAD
from foretrain.launcher.local.run import RankError, call_local
from foretrain.parallel.layout import Layout
from foretrain.scaling.verify.plan import Plan, Precision, Trial
from foretrain.scaling.verify.verdict import Expected, Verdict, judge
from foretrain.trainer.curve import Curve

PROBE = "foretrain.trainer.probe:probe"
REFERENCE = "foretrain.trainer.reference:reference"
TIMEOUT_S = 600.0
"""A trial that takes longer hangs. Collectives of a rank end sooner than that."""

_PRELOAD = (*PRELOAD, "foretrain.trainer.probe")


class Display(Protocol):
    """Is told how far the run has come."""

    def start(self, trial: Trial) -> None: ...

    def done(self, verdict: Verdict) -> None: ...


def verify(plan: Plan, display: Display, probe: str = PROBE) -> list[Verdict]:
    """Try all that is planned, and judge it. `probe` names the function that ranks run: tests plant faults in one."""
    references = references_of(plan)
    verdicts = []
    for trial in plan.trials:
        display.start(trial)
        verdicts.append(run_trial(plan, trial, references[trial.precision], probe))
        display.done(verdicts[-1])
    return verdicts


def references_of(plan: Plan) -> dict[Precision, Expected]:
    """What each precision of the plan is held to.

    In bf16 one process means the engine on one rank: what stays fp32 there (masters, moments, sums) is not plain torch.
    """
    exact, fp32 = (_call(REFERENCE, (plan.config, dtype, plan.num_steps), 1)[0] for dtype in ("float64", "float32"))
    references: dict[Precision, Expected] = {"fp32": Expected(fp32, exact)}
    if any(trial.precision == "bf16" for trial in plan.trials):
        alone = Trial(Layout(), "bf16")
        bf16 = _call(PROBE, (plan.config_of(alone), alone.layout, plan.num_steps), 1)[0]
        references["bf16"] = Expected(bf16, exact)
    return references


def run_trial(plan: Plan, trial: Trial, expected: Expected, probe: str = PROBE) -> Verdict:
    """Run the ranks of a trial, and judge their curve: to fail, hang or disagree is a failure of the layout."""
    started_s = time.monotonic()
    try:
        curves = _call(probe, (plan.config_of(trial), trial.layout, plan.num_steps), trial.layout.world_size)
    except (RankError, TimeoutError) as error:
        problem = str(error).strip().splitlines()[-1]
        return Verdict(trial, None, None, False, (problem,), time.monotonic() - started_s)
    wall_s = time.monotonic() - started_s
    if any(curve != curves[0] for curve in curves):
        return Verdict(trial, None, None, False, ("the ranks report different curves",), wall_s)
    return judge(trial, curves[0], expected, wall_s)


def _call(target: str, args: tuple, world_size: int) -> list[Curve]:
    return call_local(target, args, world_size, preload=_PRELOAD, timeout_s=TIMEOUT_S)
