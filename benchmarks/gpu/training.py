"""Runs of the checks: their configs as overrides, the command, and what their metrics say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import plugin
from benchmarks.gpu.context import FORETRAIN, ROOT, Context
from foretrain.trainer.metrics import METRICS_FILE, read_metrics

SMALL_MODEL = str(ROOT / "benchmarks" / "gpu" / "small_llama.yaml")
LARGE_MODEL = "runs/gpt2_124m_a100"
SEQ_LEN, BATCH_SIZE = 256, 32
"""Those of SMALL_MODEL."""
CPU_SEQ_LEN, CPU_BATCH_SIZE = 64, 8

# A tiny model for trials of the program on CPUs: all features of the small one, and a step of milliseconds.
_ON_CPUS = (
    "model.num_layers=2",
    "model.d_model=64",
    "model.d_ff=128",
    f"model.seq_len={CPU_SEQ_LEN}",
    f"train.global_batch_size={CPU_BATCH_SIZE}",
    "train.micro_batch_size=2",
)
QUIET = ("train.eval_samples=0", "train.eval_every=0", "train.sinks=[terminal]", "sample.prompts=[]")


def small(context: Context, num_steps: int, layout: str, precision: str, *more: str) -> list[str]:
    """Config and overrides of a run of the small model. `layout`: such as "dp=2 tp=2"."""
    seq_len, batch_size = (SEQ_LEN, BATCH_SIZE) if context.on_gpus else (CPU_SEQ_LEN, CPU_BATCH_SIZE)
    return [
        SMALL_MODEL,
        f"data.path={context.data}",
        f"train.num_tokens={num_steps * batch_size * seq_len}",
        f"train.precision={precision}",
        f"train.device={context.device}",
        *(f"parallel.{part}" for part in layout.split()),
        *(() if context.on_gpus else _ON_CPUS),
        *more,
    ]


def large(context: Context, overrides: Sequence[str]) -> list[str]:
    """Config and overrides of a run of the 124M model, or of the tiny one where there are no GPUs."""
    base = [LARGE_MODEL, *QUIET] if context.on_gpus else [SMALL_MODEL, *_ON_CPUS]
    return [*base, f"data.path={context.data}", f"train.device={context.device}", *overrides]


def named(*callbacks: str) -> list[str]:
    """Overrides that let a run use callbacks of the plugin."""
    return [f"plugins=[{plugin.NAME}]", f"train.callbacks=[{','.join(callbacks)}]"]


def command(run_dir: Path, settings: Sequence[str]) -> list[str]:
    """The arguments of Python for a training that `settings`, a config and overrides, describe."""
    config, *overrides = settings
    return [*FORETRAIN, "train", config, f"run_dir={run_dir}", *overrides]


def train(context: Context, run_dir: Path, settings: Sequence[str]) -> list[dict[str, Any]]:
    """Train until the run ends, and return the records of its steps."""
    context.run(*command(run_dir, settings))
    return steps_of(run_dir)


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    """The records of the steps that a run has done by now."""
    path = run_dir / METRICS_FILE
    return [record for record in read_metrics(path) if record["kind"] == "train"] if path.exists() else []


def mixed_layout(num_ranks: int) -> str:
    """A layout with data and, from 4 ranks on, also tensor parallelism."""
    return f"dp={num_ranks // 2} tp=2" if num_ranks >= 4 else f"dp={num_ranks} tp=1"
