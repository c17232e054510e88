"""An import takes memory for one tensor of the model at most, and not for the model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foretrain.configs.schema import ModelConfig
from foretrain.trainer.interop.families import family_of
from foretrain.trainer.interop.family import targets_of
from foretrain.trainer.interop.safetensors import header
from foretrain.trainer.mup.parametrize import blueprint
from tests.cli import ROOT, environment
from tests.trainer.interop.cases import GPT2, LLAMA, config_of
from tests.trainer.interop.made import tokenizer_json
from tests.trainer.interop.test_memory import sizes, wide


def write_zeros(folder: Path, model: ModelConfig) -> Path:
    """The folder of a model whose weights are 0, which takes almost no room on the disk."""
    config = config_of(model)
    family = family_of(config)
    folder.mkdir()
    names = {"architectures": [family.architecture], "model_type": family.model_type, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps({**names, **family.settings(model)}))
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    start = header(targets_of(family, blueprint(config)), torch.float32)
    (folder / "model.safetensors").write_bytes(start)
    os.truncate(folder / "model.safetensors", len(start) + sizes(model)[1])
    return folder


@pytest.mark.long
def test_an_import_takes_at_most_twice_the_memory_of_its_largest_tensor(tmp_path: Path) -> None:
    models = {"small": replace(GPT2, d_model=32, d_ff=64), "llama": wide(LLAMA), "gpt2": wide(GPT2)}
    folders = [write_zeros(tmp_path / name, model) for name, model in models.items()]
    command = [
        sys.executable,
        "-m",
        "tests.trainer.interop.importing.memory",
        str(tmp_path / "out"),
        *map(str, folders),
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    *taken, hoarded = map(int, ended.stdout.split())
    for name, num_bytes in zip(["llama", "gpt2"], taken, strict=True):
        largest, total = sizes(models[name])
        assert total > 100e6 and total > 2.3 * largest
        assert num_bytes <= 2 * largest, name
    assert hoarded > 2 * sizes(models["llama"])[0], "an import that keeps what it has read is noticed"
