"""An export takes memory for one tensor of the model, and not for the model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs.schema import ModelConfig
from foretrain.trainer.interop.families import family_of
from foretrain.trainer.interop.family import targets_of
from foretrain.trainer.mup.parametrize import blueprint
from tests.cli import ROOT, environment
from tests.trainer.interop.cases import GPT2, LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint

pytestmark = pytest.mark.long


def wide(model: ModelConfig) -> ModelConfig:
    """A model of more than 100 MB whose largest tensor is less than half of it."""
    return replace(model, d_model=1024, num_heads=8, num_layers=1, d_ff=12 * 1024)


def sizes(model: ModelConfig) -> tuple[int, int]:
    """Bytes of the largest tensor, and of all, in fp32."""
    config = config_of(model)
    elements = [target.num_elements for target in targets_of(family_of(config), blueprint(config))]
    return 4 * max(elements), 4 * sum(elements)


def memory(folder: Path, model: ModelConfig, *options: str) -> int:
    """Bytes that the export of a model takes beyond what its process had before."""
    large, small = (config_of(each) for each in (model, replace(model, d_model=32, d_ff=64)))
    paths = [
        write_checkpoint(folder / name, config, random_model(config).shards())
        for name, config in (("large", large), ("small", small))
    ]
    command = [sys.executable, "-m", "tests.trainer.interop.memory", *map(str, (*paths, folder / "out")), *options]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


@pytest.mark.parametrize("model", [wide(GPT2), wide(LLAMA)], ids=["gpt2", "llama"])
def test_an_export_takes_at_most_twice_the_memory_of_its_largest_tensor(model: ModelConfig, tmp_path: Path) -> None:
    largest, total = sizes(model)
    assert total > 100e6 and total > 2.3 * largest
    assert memory(tmp_path, model) <= 2 * largest


def test_an_export_that_keeps_what_it_has_written_is_noticed(tmp_path: Path) -> None:
    model = wide(LLAMA)
    assert memory(tmp_path, model, "hoard") > 2 * sizes(model)[0]
