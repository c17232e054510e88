"""A target whose ladders take seconds."""

import shutil
from pathlib import Path

from tests.cli import Ended, called

CONFIG = """
run_dir: runs/target
model: {num_layers: 1, d_model: 64, num_heads: 8, d_ff: 128, seq_len: 32}
data: {path: corpus}
mup: {parametrization: mup, base: {d_model: 16}}
optimizer: {lr: 2^-6}
schedule: {kind: linear, warmup_tokens: 40_000, min_factor: 0}
train: {num_tokens: 400_000, global_batch_size: 8, micro_batch_size: 8, eval_samples: 16, eval_every: 0, device: cpu}
"""
LADDER = ("--budget", "2e10", "--points", "2", "--seeds", "2")
"""Two rungs of about 140 and 250 steps, with two seeds each."""


def users_folder(folder: Path, corpus: Path) -> Path:
    """Put `target.yaml` and `corpus` into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "target.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


def ladder(folder: Path, out: str, *arguments: str, **variables: str) -> Ended:
    """Run the command in a user's folder."""
    return called("ladder", "target.yaml", "--out", out, *arguments, cwd=folder, **variables)
