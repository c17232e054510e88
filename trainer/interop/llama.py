"""Llama, and Qwen3, which is Llama with norms of queries and keys: their settings, and where they keep parameters."""

from collections.abc import Iterator
from typing import Any

from foretrain.configs.model import ModelConfig, Shape
from foretrain.trainer.interop.family import Family, differing
from foretrain.trainer.interop.folding import Folded
from foretrain.trainer.interop.tensors import Target

_PLACES = {
    "attn_norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "attn.out": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
"""The modules of a block. The library's rotation pairs dimension i with i + head_dim / 2, as ours does."""


class Llama(Family):
    """Llama (arXiv 2302.13971), with grouped queries and, if the config says so, biases."""

    name, architecture, model_type = "Llama", "LlamaForCausalLM", "llama"

    def refusals(self, model: ModelConfig) -> Iterator[str]:
        yield from differing(model, norm="rmsnorm", position="rope", activation="swiglu", qk_norm=False)
        if model.d_model % model.num_heads:
            yield f"model.d_model = {model.d_model} (it needs a multiple of model.num_heads = {model.num_heads})"

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        return {**_settings(model), "attention_bias": model.bias, "mlp_bias": model.bias}

    def targets(self, folded: Folded) -> Iterator[Target]:
        model = folded.blueprint.model
        yield Target.of("model.embed_tokens.weight", folded.source("embed.weight"))
        for block in range(model.num_layers):
            for ours, theirs in _PLACES.items():
                for kind in ("weight", "bias"):
                    if folded.has(name := f"blocks.{block}.{ours}.{kind}"):
                        yield Target.of(f"model.layers.{block}.{theirs}.{kind}", folded.source(name))
        yield Target.of("model.norm.weight", folded.source("final_norm.weight"))
        if not model.tie_embeddings:
            yield Target.of("lm_head.weight", folded.source("head.weight"))


class Qwen3(Llama):
    """Qwen3 (arXiv 2505.09388), dense."""

    name, architecture, model_type = "Qwen3", "Qwen3ForCausalLM", "qwen3"

    def refusals(self, model: ModelConfig) -> Iterator[str]:
        yield from differing(model, norm="rmsnorm", position="rope", activation="swiglu", qk_norm=True, bias=False)

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        return {**_settings(model), "attention_bias": False, "use_sliding_window": False}


def _settings(model: ModelConfig) -> dict[str, Any]:
    shape = Shape.of(model)
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.seq_len,
        "rms_norm_eps": model.norm_eps,
        # Version 5 of the library reads the second, and earlier ones and other programs the first.
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_dropout": 0.0,
    }
