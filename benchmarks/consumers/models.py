"""The small models that the consumers get: one of each family of exports, trained and exported by foretrain's commands.

All that is made stays in the folder of the work, so that a benchmark that was stopped continues.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.consumers.commands import run
from foretrain.data_pipeline.prepare.input_files import standard_library

BASE = Path(__file__).with_name("base.yaml")
TEXTS = ("heapq.py", "queue.py", "shlex.py", "textwrap.py")
"""Modules of the standard library, 68 kB, of which one is held out."""
VOCAB_SIZE = 512
FORETRAIN = (sys.executable, "-m", "foretrain")

FAMILIES = {
    # Under muP, whose multipliers must have become factors of the exported weights.
    "Llama": (
        "model.d_model=128 model.num_heads=4 model.num_kv_heads=2 model.d_ff=320 "
        "mup.parametrization=mup mup.base.d_model=64"
    ),
    # Heads that are wider than d_model / num_heads, as in published models of the family.
    "Qwen3": "model.qk_norm=true model.head_dim=64 model.num_kv_heads=1 model.d_ff=256 model.tie_embeddings=true",
    "GPT-2": (
        "model.norm=layernorm model.position=learned model.activation=gelu_tanh model.bias=true "
        "model.tie_embeddings=true"
    ),
}
"""What the config of each family has beside base.yaml."""


@dataclass(frozen=True)
class Model:
    """A trained model, and its export in fp32."""

    family: str
    run_dir: Path
    exported: Path


def model_of(family: str, work: Path) -> Model:
    """The model of a family, which is trained and exported unless it is there. Raises CommandError if that fails."""
    name = family.lower().replace("-", "")
    model = Model(family, work / "runs" / name, work / "exported" / name)
    if not model.exported.exists():
        corpus = work / "corpus"
        texts = [str(standard_library() / each) for each in TEXTS]
        prepare = ["prepare", *texts, "--vocab-size", str(VOCAB_SIZE), "--out", str(corpus), "--reuse"]
        _foretrain(prepare, work / "corpus.log", "texts")
        settings = [f"model.name={name}", f"run_dir={model.run_dir}", f"data.path={corpus}", *FAMILIES[family].split()]
        _foretrain(["train", str(BASE), *settings], work / "runs" / f"{name}.log", f"{family}: training")
        export = ["export", str(model.run_dir), str(model.exported), "--to", "hf"]
        _foretrain(export, work / "exported" / f"{name}.log", f"{family}: export")
    return model


def _foretrain(arguments: Sequence[str], log: Path, label: str) -> None:
    run([*FORETRAIN, *arguments], log, label)
