"""The measurement of speed: tokens per second, MFU and HFU of GPT-2 124M in bf16."""

from statistics import median
from typing import Any

from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.training import CPU_SEQ_LEN, large, train
from foretrain.trainer.utilization import peak_tflops

NUM_STEPS, NUM_WARMUP = 30, 8
"""Kernels are chosen, memory is taken and groups connect in the first steps, which do not count."""
SAMPLES_PER_RANK, MICRO_BATCH_SIZE, SEQ_LEN = 64, 16, 1024
CPU_SAMPLES_PER_RANK = 4
MEASURED = ("step_s", "tokens_per_s", "mfu", "hfu", "device_peak_gib")


def tokens_per_step(context: Context) -> int:
    """Tokens of a step, which grow with the number of ranks."""
    return context.num_ranks * (SAMPLES_PER_RANK * SEQ_LEN if context.on_gpus else CPU_SAMPLES_PER_RANK * CPU_SEQ_LEN)


def settings(context: Context) -> list[str]:
    """Config and overrides of the run."""
    batch_size = context.num_ranks * (SAMPLES_PER_RANK if context.on_gpus else CPU_SAMPLES_PER_RANK)
    peak = peak_tflops(context.gpu)
    overrides = [
        f"parallel.dp={context.num_ranks}",
        "train.precision=bf16",
        f"train.global_batch_size={batch_size}",
        f"train.micro_batch_size={MICRO_BATCH_SIZE if context.on_gpus else 2}",
        f"train.num_tokens={NUM_STEPS * tokens_per_step(context)}",
        "schedule.warmup_tokens=0",
        *([f"cluster.gpu_peak_tflops={peak}"] if peak else []),
    ]
    return large(context, overrides)


def throughput(context: Context) -> dict[str, Any]:
    """Train some steps, and return the medians of those after the warm-up, and the greatest peak of memory."""
    steps, peak = train(context, context.folder / "run", settings(context)), peak_tflops(context.gpu)
    measured = {"num_ranks": context.num_ranks, "tokens_per_step": tokens_per_step(context), "peak_tflops": peak}
    measured |= summary(steps)
    if len(steps) != NUM_STEPS:
        raise CheckFailedError(f"the run has {len(steps)} steps and not {NUM_STEPS}", measured)
    if context.on_gpus and peak is None:
        for name in ("mfu", "hfu"):  # they would be shares of another GPU's peak
            measured[name] = None
    if (measured["mfu"] or 0.0) > 1.0:
        raise CheckFailedError("mfu is more than 1: the clock, the FLOPs or the peak of the GPU is wrong", measured)
    return measured


def summary(steps: list[dict[str, Any]]) -> dict[str, float | None]:
    """The median of each metric after the warm-up, but the maximum of a peak; None for what was not measured."""
    counted = steps[NUM_WARMUP:]
    found = {name: [step[name] for step in counted if name in step] for name in MEASURED}
    return {name: (max if "peak" in name else median)(values) if values else None for name, values in found.items()}
