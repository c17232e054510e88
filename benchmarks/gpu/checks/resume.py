"""The check that a run that was killed and started again has the curve, to the bit, of one that was not."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.curves import Comparison, compare
from benchmarks.gpu.training import command, mixed_layout, named, small, steps_of, train
from benchmarks.processes import kill_group
from foretrain.trainer.run.folder import newest_checkpoint, step_of

NUM_STEPS, CHECKPOINT_EVERY = 40, 10
KILL_AT = 16
"""The kill comes after this step at the earliest, in the middle between two checkpoints."""
VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""cuBLAS adds in the same order each time only if its workspaces have a fixed size."""
PRECISIONS, CPU_PRECISIONS = ("bf16", "fp32"), ("bf16",)
"""Without a GPU the program itself is tried, and a second precision would show nothing more."""


def resume(context: Context) -> dict[str, Any]:
    """Compare both curves in each precision, with kernels that add in the same order each time."""
    context = replace(context, variables=VARIABLES)
    measured: dict[str, Any] = {"layout": mixed_layout(context.num_ranks)}
    different = []
    for precision in PRECISIONS if context.on_gpus else CPU_PRECISIONS:
        comparison, killed_at, resumed_at = _compared(context, precision)
        measured |= comparison.record(precision)
        measured |= {f"{precision}_killed_after_step": killed_at, f"{precision}_resumed_from_step": resumed_at}
        if not comparison.is_same:
            different.append(f"{precision}: {comparison.num_different} of {comparison.num_steps} steps differ")
    measured["not_deterministic"] = not_deterministic(context.log.read_text(encoding="utf-8", errors="replace"))
    if different:
        raise CheckFailedError("; ".join(different), measured)
    return measured


def _compared(context: Context, precision: str) -> tuple[Comparison, int, int]:
    settings = small(
        context,
        NUM_STEPS,
        mixed_layout(context.num_ranks),
        precision,
        f"train.checkpoint_every={CHECKPOINT_EVERY}",
        *named("gpu_deterministic"),
    )
    expected = train(context, context.folder / f"{precision}_uninterrupted", settings)
    run_dir = context.folder / f"{precision}_killed"
    _train_and_kill(context, run_dir, [*settings, *named("gpu_deterministic", "gpu_slow")])
    before, checkpoint = steps_of(run_dir), newest_checkpoint(run_dir)
    if checkpoint is None or len(before) >= NUM_STEPS:
        raise CheckFailedError(
            f"the run ended before it was killed, after {len(before)} steps: this program has a fault"
        )
    resumed_at = step_of(checkpoint)
    found = train(context, run_dir, settings)
    check_resumed(before, found, resumed_at)
    comparison = compare(found, expected)
    if comparison.num_steps != NUM_STEPS:
        raise CheckFailedError(f"{precision}: the runs have {comparison.num_steps} steps and not {NUM_STEPS}")
    return comparison, len(before), resumed_at


def _train_and_kill(context: Context, run_dir: Path, settings: list[str]) -> None:
    with context.started(*command(run_dir, settings)) as process:

        def is_in_the_middle() -> bool:
            if process.poll() is not None:
                raise CheckFailedError(f"the run to be killed ended by itself, with status {process.returncode}")
            return newest_checkpoint(run_dir) is not None and len(steps_of(run_dir)) >= KILL_AT

        context.wait_until(is_in_the_middle)
        kill_group(process)


def not_deterministic(output: str) -> list[str]:
    """The operations of which torch said that they may add in another order each time."""
    return sorted(set(re.findall(r"(\S+) does not have a deterministic implementation", output)))


def check_resumed(before: list[dict[str, Any]], found: list[dict[str, Any]], step: int) -> None:
    """Raise CheckFailedError unless a run that continued from the checkpoint of `step` kept the steps before it.

    A run that starts from its first step again has the same losses, but other times.
    """
    if not step or found[:step] != before[:step]:
        raise CheckFailedError(f"the second start did not continue from the checkpoint of step {step}")
