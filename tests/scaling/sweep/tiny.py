"""A sweep of seconds, and its results."""

import json
import shutil
from pathlib import Path

from foretrain.scaling.records import RESULTS_FILE
from tests.cli import Ended, called

CONFIG = """
model: {num_layers: 1, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}
data: {path: corpus}
mup: {parametrization: mup, base: {d_model: 16}}
schedule: {warmup_tokens: 256}
train: {num_tokens: 4096, global_batch_size: 8, micro_batch_size: 2, eval_samples: 8, eval_every: 0, device: cpu}
"""
TWO_RATES = ("--over", "optimizer.lr=2^-7..2^-6", "--jobs", "2")
NUM_STEPS = 16


def users_folder(folder: Path, corpus: Path) -> Path:
    """Put `tiny.yaml` and `corpus` into a folder."""
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


def sweep(folder: Path, out: str, *arguments: str, **variables: str) -> Ended:
    """Run the command in a user's folder."""
    return called("sweep", "tiny.yaml", "--out", out, *arguments, cwd=folder, **variables)


def results(out: Path) -> list[dict]:
    """The lines of a sweep's results."""
    return [json.loads(line) for line in (out / RESULTS_FILE).read_text().splitlines()]
