"""Our GPT against the transformers library, class by class: logits, gradients, and weights from a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.configs import load as configs
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.loss import IGNORE, cross_entropy
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.checkpoint.loading import load_weights
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.gpt import Stage, build_model
from foretrain.trainer.model.table import num_params
from foretrain.trainer.run.folder import CONFIG_FILE
from tests.conftest import RunOnRanks
from tests.parallel.workers import batch, small_model
from tests.trainer.model.huggingface import GPT2, LLAMA, QWEN3, Family
from tests.trainer.model.workers import train_and_save

TOLERANCE = 1e-5
"""On logits of about 1 to 5 in fp32."""

BASE = ModelConfig(num_layers=3, d_model=32, num_heads=4, d_ff=96, vocab_size=61, seq_len=24, init_std=0.2)
GPT2_MODEL = replace(BASE, norm="layernorm", position="learned", activation="gelu_tanh", bias=True, tie_embeddings=True)
MODELS = {
    "gpt2": (GPT2, GPT2_MODEL),
    "gpt2, exact gelu, untied": (GPT2, replace(GPT2_MODEL, activation="gelu", tie_embeddings=False)),
    "llama": (LLAMA, BASE),
    "llama, grouped queries": (LLAMA, replace(BASE, num_kv_heads=2, rope_theta=500.0)),
    "llama, one kv head, tied": (LLAMA, replace(BASE, num_kv_heads=1, tie_embeddings=True)),
    "llama, biases, wide heads": (LLAMA, replace(BASE, num_kv_heads=2, bias=True, head_dim=12)),
    "qwen3": (QWEN3, replace(BASE, num_kv_heads=2, head_dim=16, qk_norm=True, tie_embeddings=True)),
}
every_model = pytest.mark.parametrize(("family", "model"), MODELS.values(), ids=MODELS.keys())


def build(model: ModelConfig) -> Stage:
    """The full model, with gains and biases that are not 1 and 0."""
    stage = build_model(Blueprint.of(model), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for shard in stage.shards():
            if not shard.param.is_matrix:
                shard.tensor[shard.rows] += 0.3 * torch.randn(shard.param.shape, generator=generator)
    return stage


def weights(stage: Stage) -> dict[str, Tensor]:
    return {shard.param.name: shard.values.data for shard in stage.shards()}


def tokens_of(model: ModelConfig) -> Tensor:
    assert model.vocab_size
    return torch.randint(model.vocab_size, (4, model.seq_len), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits_apart(family: Family, model: ModelConfig, **planted: Any) -> float:
    """Largest absolute difference of logits."""
    stage, tokens = build(model), tokens_of(model)
    theirs = family.model(model, weights(stage), **planted)
    return (stage(tokens).transpose(0, 1) - theirs(tokens).logits).abs().max().item()


@every_model
def test_logits_are_those_of_the_library(family: Family, model: ModelConfig) -> None:
    assert logits_apart(family, model) <= TOLERANCE


@every_model
def test_the_table_counts_the_parameters_of_the_library(family: Family, model: ModelConfig) -> None:
    theirs = family.model(model, weights(build(model)))
    assert num_params(model) == sum(parameter.numel() for parameter in theirs.parameters())


@every_model
def test_loss_and_every_gradient_are_those_of_the_library(family: Family, model: ModelConfig) -> None:
    stage, tokens = build(model), tokens_of(model)
    theirs = family.model(model, weights(stage))
    their_loss = theirs(tokens, labels=tokens).loss  # it shifts the labels itself
    their_loss.backward()
    targets = F.pad(tokens[:, 1:], (0, 1), value=IGNORE)
    loss = cross_entropy(stage(tokens), targets, TensorParallel()).sum() / (targets != IGNORE).sum()
    loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-6)
    expected = family.gradients(model, theirs)
    for shard in stage.shards():
        name = shard.param.name
        assert shard.tensor.grad is not None, name
        gradient = shard.tensor.grad[shard.rows]
        # A bias of the keys shifts all scores of a query alike: its gradient is rounding noise around 0.
        scale = expected[name.replace("attn.k.bias", "attn.q.bias")].norm()
        assert (gradient - expected[name]).norm() <= 1e-4 * scale, name


PLANTED_SETTINGS = [
    ("gpt2", {"layer_norm_epsilon": 1e-6}),
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("llama", {"rms_norm_eps": 1e-6}),
    ("llama", {"rope_theta": 10100.0}),
    ("llama", {"hidden_act": "gelu"}),
    ("qwen3", {"rms_norm_eps": 1e-6}),
    ("qwen3", {"rope_theta": 10100.0}),
]
PLANTED_SWAPS = [
    ("gpt2", "attn.q", "attn.k"),
    ("gpt2", "attn.k", "attn.v"),
    ("gpt2", "attn_norm", "mlp_norm"),
    ("llama", "attn.q", "attn.k"),
    ("llama", "mlp.gate", "mlp.up"),
    ("llama", "embed", "head"),
    ("qwen3", "attn.k", "attn.v"),
    ("qwen3", "attn.q_norm", "attn.k_norm"),
]


@pytest.mark.parametrize(("name", "planted"), PLANTED_SETTINGS)
def test_another_setting_of_the_library_gives_other_logits(name: str, planted: dict[str, Any]) -> None:
    assert logits_apart(*MODELS[name], **planted) > 10 * TOLERANCE


@pytest.mark.parametrize(("name", "one", "other"), PLANTED_SWAPS)
def test_two_swapped_parameters_give_other_logits(name: str, one: str, other: str) -> None:
    family, model = MODELS[name]
    assert logits_apart(family.swapped(one, other), model) > 10 * TOLERANCE


SAVED = {
    "gpt2": (
        GPT2,
        small_model(**(vars(GPT2_MODEL) | {"num_layers": 4, "num_kv_heads": None, "seq_len": 16})),
        ParallelConfig(tp=2, pp=2),
    ),
    "llama": (LLAMA, small_model(rope_theta=500.0), ParallelConfig(tp=2, pp=2, sp=True)),
}


@pytest.mark.parametrize(
    ("family", "model", "parallel"),
    [pytest.param(*SAVED["gpt2"], id="gpt2"), pytest.param(*SAVED["llama"], id="llama", marks=pytest.mark.long)],
)
def test_a_checkpoint_of_a_sharded_run_is_the_same_model_in_the_library(
    family: Family, model: ModelConfig, parallel: ParallelConfig, ranks: RunOnRanks, tmp_path: Path
) -> None:
    config = Config(
        model=model,
        parallel=parallel,
        train=TrainConfig(global_batch_size=8, micro_batch_size=2),
        optimizer=OptimizerConfig(lr=1e-2),
    )
    saved = ranks(parallel.tp * parallel.pp, train_and_save, config, 2, tmp_path)
    (checkpoint,) = {of_rank.checkpoint for of_rank in saved}
    stage = build(configs.load(checkpoint / CONFIG_FILE).model)
    load_weights(checkpoint, stage.shards())
    theirs = family.model(model, weights(stage))

    tokens, targets = batch(2, model, config.train)
    with torch.no_grad():
        logits, initial = theirs(tokens).logits, family.model(model, weights(build(model)))(tokens).logits
        assert (stage(tokens).transpose(0, 1) - logits).abs().max() <= TOLERANCE
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE).item()
    for of_rank in saved:
        assert of_rank.eval_loss == pytest.approx(loss, rel=1e-5)
        assert of_rank.next_step_loss == pytest.approx(loss, rel=1e-5)
    untrained = F.cross_entropy(initial.flatten(0, 1), targets.flatten(), ignore_index=IGNORE).item()
    assert abs(untrained - loss) > 1e-2, "two steps leave a mark, so the weights are the trained ones"
