"""`python -m benchmarks.gpu.foresee`: compute the peaks of memory that the check `memory` compares with.

It needs no GPU, and a torch without CUDA, in which GPUs can be fake. Each rank has a process of its own; all take a few
minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu.checks.memory import FORESEEN, Foreseen
from benchmarks.gpu.context import ROOT
from benchmarks.gpu.training import LARGE_MODEL, QUIET
from foretrain.files import write_atomically
from foretrain.parallel.layout import Layout
from foretrain.scaling.fake_cuda.record import RankRecord

NUM_STEPS, SEQ_LEN = 3, 1024
MICRO_BATCH_SIZE, BATCH_PER_RANK = 4, 8

app = typer.Typer(add_completion=False)


def overrides(dp: int, recompute: str, precision: str) -> list[str]:
    """The settings of one config, without those of a machine."""
    return [
        f"parallel.dp={dp}",
        f"train.recompute={recompute}",
        f"train.precision={precision}",
        f"train.micro_batch_size={MICRO_BATCH_SIZE}",
        f"train.global_batch_size={BATCH_PER_RANK * dp}",
        f"train.num_tokens={NUM_STEPS * BATCH_PER_RANK * dp * SEQ_LEN}",
        "schedule.warmup_tokens=0",
    ]


def foresee(dp: int, recompute: str, precision: str) -> Foreseen:
    """The peak of rank 0, which holds as much as every other rank of the layout."""
    settings = overrides(dp, recompute, precision)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rank.json"
        arguments = [LARGE_MODEL, *QUIET, *settings, "--steps", "2", "--no-checkpoint", "--json", str(out)]
        subprocess.run(
            [sys.executable, "-m", "foretrain.scaling.fake_cuda", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        record = RankRecord.from_json(out.read_text(encoding="utf-8"))
    name = f"dp={dp} zero=1 recompute={recompute} {precision}"
    layout = str(Layout(dp=dp))
    return Foreseen(name, settings, layout, dp, record.rank, record.peak_device_bytes, record.config)


@app.command()
def main(out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = FORESEEN) -> None:
    """Compute the peaks of GPT-2 124M with ZeRO 1 on 1, 2, 4 and 8 ranks, and write them."""
    import torch

    found = []
    for dp, recompute, precision in product((1, 2, 4, 8), ("none", "full"), ("bf16", "fp32")):
        found.append(foresee(dp, recompute, precision))
        typer.echo(f"{found[-1].name}: {found[-1].peak_bytes / 2**30:.2f} GiB", err=True)
    results = {"torch": torch.__version__, "model": LARGE_MODEL, "foreseen": [asdict(each) for each in found]}
    write_atomically(out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app()
