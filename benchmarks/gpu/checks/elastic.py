"""The check that a checkpoint of one layout continues in another layout with the same curve."""

import shutil
from typing import Any

from benchmarks.gpu.checks.resume import check_resumed
from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.curves import compare
from benchmarks.gpu.training import small, train
from foretrain.trainer.run.folder import CHECKPOINTS

NUM_STEPS, CHANGE_AT = 30, 15

LOSS_TOLERANCES = {"fp32": 1e-5, "bf16": 1e-3}
"""The greatest relative difference of a loss that is allowed. They are those of `foretrain verify`.

Another layout adds the same numbers in another order, so the curves agree to rounding only. fp32 is the sharp test: it
sees weights that were rounded to bf16 on the way. bf16 sees a lost moment or a lost number of steps; `resume`, which
compares bits, sees smaller faults.
"""
CPU_PRECISIONS = ("fp32",)
"""Without a GPU the program itself is tried, and a second precision would show nothing more."""


def layouts(num_ranks: int) -> tuple[str, str]:
    """The layouts before and after the change."""
    return f"dp={num_ranks} tp=1", f"dp={num_ranks // 2} tp=2"


def elastic(context: Context) -> dict[str, Any]:
    """Train data-parallel, continue a copy from the middle with tensor parallelism, and compare the losses."""
    before, after = layouts(context.num_ranks)
    measured: dict[str, Any] = {"from_layout": before, "to_layout": after}
    problems = []
    for precision in LOSS_TOLERANCES if context.on_gpus else CPU_PRECISIONS:
        tolerance = LOSS_TOLERANCES[precision]
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
