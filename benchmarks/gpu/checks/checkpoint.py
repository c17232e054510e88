"""The measurement of checkpoints: seconds and bytes of saving and loading GPT-2 124M."""

import json
from typing import Any

from benchmarks.gpu.context import Context
from benchmarks.gpu.plugin import TIMES_FILE
from benchmarks.gpu.training import CPU_SEQ_LEN, large, named, train

NUM_STEPS = 3
"""A checkpoint is saved and measured after each but the last, and loaded and measured after the last."""


def settings(context: Context) -> list[str]:
    """Config and overrides of the run."""
    batch_size, seq_len = (8 * context.num_ranks, 1024) if context.on_gpus else (4 * context.num_ranks, CPU_SEQ_LEN)
    overrides = [
        f"parallel.dp={context.num_ranks}",
        "train.precision=bf16",
        f"train.global_batch_size={batch_size}",
        f"train.micro_batch_size={4 if context.on_gpus else 2}",
        f"train.num_tokens={NUM_STEPS * batch_size * seq_len}",
        "schedule.warmup_tokens=0",
        *named("gpu_checkpoint_times"),
    ]
    return large(context, overrides)


def checkpoint(context: Context) -> dict[str, Any]:
    """Train some steps with a callback that measures. Files that were just written are read from the page cache."""
    run_dir = context.folder / "run"
    train(context, run_dir, settings(context))
    return summary(json.loads((run_dir / TIMES_FILE).read_text(encoding="utf-8")))


def summary(times: dict[str, Any]) -> dict[str, Any]:
    """The first and the fastest time of each, since the first one makes threads and connections, and their rates."""
    num_bytes = times["num_bytes"]
    measured = {"num_bytes": num_bytes}
    for name in ("save", "load"):
        seconds = times[f"{name}_s"]
        measured |= {
            f"first_{name}_s": round(seconds[0], 3),
            f"{name}_s": round(min(seconds), 3),
            f"{name}_gb_s": round(num_bytes / min(seconds) / 1e9, 3),
        }
    return measured
