"""Checkpoints of every kind of layout are exported as the model that their ranks have trained."""

from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.trainer.checkpoint.loading import load_weights
from foretrain.trainer.interop.export import export
from tests.conftest import RunOnRanks
from tests.trainer.interop.cases import GPT2, LLAMA, QWEN3, TOLERANCE, apart, config_of
from tests.trainer.interop.made import random_model
from tests.trainer.interop.workers import NUM_STEPS, with_tokenizer

pytestmark = pytest.mark.long

ODD = 301
"""Rows of a vocabulary that two tensor-parallel ranks pad."""
LAYOUTS: dict[str, tuple[ModelConfig, ParallelConfig]] = {
    "tp2pp2": (
        replace(LLAMA, num_layers=4, num_kv_heads=2, vocab_size=ODD, tie_embeddings=True),
        ParallelConfig(tp=2, pp=2, sp=True),
    ),
    "tp4, shared key-value heads": (replace(LLAMA, num_kv_heads=2, vocab_size=ODD), ParallelConfig(tp=4)),
    "zero3": (replace(QWEN3, num_layers=4, vocab_size=ODD), ParallelConfig(dp=4, zero_stage=3)),
    "vpp2": (
        replace(GPT2, num_layers=5, vocab_size=ODD, tie_embeddings=True),
        ParallelConfig(dp=2, pp=2, vpp=2, schedule="interleaved_1f1b"),
    ),
}


def configs(folder: Path) -> dict[str, Config]:
    train = TrainConfig(global_batch_size=8, micro_batch_size=2)
    return {
        name: replace(
            config_of(model, "completep"),
            run_dir=str(folder / name),
            parallel=parallel,
            train=train,
            optimizer=OptimizerConfig(lr=1e-2),
        )
        for name, (model, parallel) in LAYOUTS.items()
    }


def test_a_checkpoint_of_any_layout_is_the_model_that_its_ranks_trained(ranks: RunOnRanks, tmp_path: Path) -> None:
    """One world of four ranks writes all of them: to start ranks takes longer than these steps."""
    made = configs(tmp_path)
    checkpoints = ranks(4, with_tokenizer, list(made.values()))[0]
    for (name, config), checkpoint in zip(made.items(), checkpoints, strict=True):
        stage = random_model(config)
        before = apart_of(config, checkpoint, tmp_path / f"out-{name}", stage)
        assert before > 100 * TOLERANCE, f"{name}: the steps left a mark, so the weights are the trained ones"
        load_weights(checkpoint, stage.shards())
        assert apart(stage, tmp_path / f"out-{name}", config.model) <= TOLERANCE, name
        assert checkpoint.name == f"step-{NUM_STEPS:08d}"


def apart_of(config: Config, checkpoint: Path, out: Path, stage: object) -> float:
    """Export a checkpoint, and say how far it is from a model."""
    export(checkpoint, out)
    return apart(stage, out, config.model)  # type: ignore[arg-type]
