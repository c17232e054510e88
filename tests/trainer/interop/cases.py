"""Configs of each family, and the comparison of an exported folder with our model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.trainer.model.gpt import Stage
from tests.trainer.interop.made import VOCAB_SIZE

TOLERANCE = 1e-5
"""On the largest difference of logits in fp32, relative to the largest logit."""

LLAMA = ModelConfig(
    num_layers=3, d_model=32, num_heads=4, d_ff=96, vocab_size=VOCAB_SIZE, seq_len=24, init_std=0.2, rope_theta=500.0
)
QWEN3 = replace(LLAMA, num_kv_heads=2, head_dim=16, qk_norm=True)
GPT2 = replace(LLAMA, norm="layernorm", position="learned", activation="gelu_tanh", bias=True)
MODELS = {
    "llama": LLAMA,
    "llama, grouped queries, tied": replace(LLAMA, num_kv_heads=2, tie_embeddings=True),
    "llama, biases, wide heads, another eps": replace(LLAMA, num_kv_heads=1, bias=True, head_dim=12, norm_eps=1e-3),
    "llama, padded vocabulary": replace(LLAMA, vocab_size=384),
    "qwen3": QWEN3,
    "qwen3, tied, padded vocabulary": replace(QWEN3, tie_embeddings=True, vocab_size=384),
    "gpt2": replace(GPT2, tie_embeddings=True),
    "gpt2, exact gelu, untied, padded vocabulary": replace(GPT2, activation="gelu", vocab_size=384),
    "gpt2, no biases": replace(GPT2, bias=False),
}


def config_of(model: ModelConfig, parametrization: Any = "standard") -> Config:
    """A config with that model. No size is that of its base, and not every ratio is a power of 2."""
    queries_of_a_key = model.num_heads // model.block_shape.num_kv_heads
    base = BaseConfig(8, 1, num_heads=queries_of_a_key, num_kv_heads=1, head_dim=6, d_ff=24)
    mup = MupConfig() if parametrization == "standard" else MupConfig(parametrization, base)
    return Config(model=model, mup=mup, train=TrainConfig(num_tokens=24 * 8 * 40, global_batch_size=8))


def tokens_of(model: ModelConfig) -> torch.Tensor:
    """Samples of the model's length."""
    assert model.vocab_size
    return torch.randint(model.vocab_size, (4, model.seq_len), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def apart(stage: Stage, out: Path, model: ModelConfig) -> float:
    """Largest difference of the logits of our model and of that in a folder, relative to the largest of ours."""
    tokens = tokens_of(model)
    ours = stage(tokens).transpose(0, 1)
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    logits = theirs.eval()(tokens).logits.float()
    assert logits.shape == ours.shape
    return float((ours - logits).abs().max() / ours.abs().max())
