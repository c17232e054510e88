"""The check that a checkpoint of one layout continues in another layout with the same curve."""

import shutil
from typing import Any

from benchmarks.gpu.checks.resume import check_resumed
from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.curves import compare
from benchmarks.gpu.training import small, train
from foretrain.trainer.run.folder import CHECKPOINTS

NUM_STEPS, CHANGE_AT = 30, 15

LOSS_TOLERANCES = {"fp32": 1e-4, "bf16": 1e-3}
"""The greatest relative difference of a loss. Another layout adds the same numbers in another order, so the curves
agree to rounding only, and Adam lets that grow from step to step.

fp32 is the sharp test: a sum differs by some 1e-7, and a state that is lost or in the wrong place changes the losses by
more than 1e-3. In bf16 each activation is rounded to 8 bits, and 1e-3, which `foretrain verify` allows too, is a few
times the effect on a mean over a batch. It shows gross faults of what bf16 alone has, such as masters in fp32.
"""


def elastic(context: Context) -> dict[str, Any]:
    """Train data-parallel, continue a copy from the middle with tensor parallelism, and compare the losses."""
    num_ranks = context.num_ranks
    before, after = f"dp={num_ranks} tp=1", f"dp={num_ranks // 2} tp=2"
    measured: dict[str, Any] = {"from_layout": before, "to_layout": after}
    problems = []
    for precision, tolerance in LOSS_TOLERANCES.items():
        more = f"train.checkpoint_every={CHANGE_AT}", "train.keep_checkpoints=0"
        complete, changed = (context.folder / f"{precision}_{name}" for name in ("complete", "changed"))
        expected = train(context, complete, small(context, NUM_STEPS, before, precision, *more))
        shutil.copytree(complete, changed)
        shutil.rmtree(changed / CHECKPOINTS / f"step-{NUM_STEPS:08d}")
        found = train(context, changed, small(context, NUM_STEPS, after, precision, *more))
        check_resumed(expected, found, CHANGE_AT)
        comparison = compare(found, expected)
        measured |= comparison.record(precision) | {f"{precision}_loss_tolerance": tolerance}
        if comparison.loss > tolerance:
            problems.append(f"{precision}: a loss differs by {comparison.loss:.1e}, more than {tolerance:g}")
        if found[CHANGE_AT:] == expected[CHANGE_AT:]:
            problems.append(f"{precision}: the second layout did not train, its steps are those of the first")
    if problems:
        raise CheckFailedError("; ".join(problems), measured)
    return measured
