"""The check that all layouts of the machine's ranks have the curve of plain PyTorch in one process."""

import json
from typing import Any

from benchmarks.gpu.context import FORETRAIN, CheckFailedError, Context

SAMPLE = {1: None, 2: 16, 4: 12, 8: 10}
"""Layouts to try with that many GPUs, chosen at random with a fixed seed; None: all of them, which are 7."""
CPU_SAMPLE = 2


def verify(context: Context) -> dict[str, Any]:
    """Run `foretrain verify`, which compares loss and gradient norm in fp32 and bf16."""
    sample = SAMPLE[context.num_ranks] if context.on_gpus else CPU_SAMPLE
    out = context.folder / "verify.jsonl"
    arguments = ["runs/dry_run", "--device", context.device, "--precision", "both", "--out", str(out)]
    arguments += ["--max-processes", str(context.num_ranks), *(["--sample", str(sample)] if sample else [])]
    try:
        context.run(*FORETRAIN, "verify", *arguments)
    except CheckFailedError as error:
        raise CheckFailedError(str(error), _measured(out.read_text()) if out.exists() else {}) from None
    return _measured(out.read_text())


def _measured(lines: str) -> dict[str, Any]:
    _, *trials = map(json.loads, lines.splitlines())
    near = [trial["near"] for trial in trials if trial["near"]]
    return {
        "trials": len(trials),
        "same_trials": sum(trial["passed"] for trial in trials),
        "loss_difference": max((each["loss"] for each in near), default=None),
        "grad_norm_difference": max((each["grad_norm"] for each in near), default=None),
        "different": [f"{trial['layout']} {trial['precision']}" for trial in trials if not trial["passed"]],
    }
