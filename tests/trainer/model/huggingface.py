"""Models of the transformers library with our shape and our weights: an independent implementation of a GPT."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_utils import PreTrainedModel

from foretrain.configs.model import Shape
from foretrain.configs.schema import ModelConfig
from foretrain.trainer.model.table import param_table


class Place(NamedTuple):
    """The place of a parameter: a module, in which `{}` is the layer, and the third of its tensor."""

    module: str
    third: int | None = None
    is_transposed: bool = False


GPT2_PLACES = {
    "embed": Place("transformer.wte"),
    "position": Place("transformer.wpe"),
    "attn_norm": Place("transformer.h.{}.ln_1"),
    "attn.q": Place("transformer.h.{}.attn.c_attn", 0, is_transposed=True),
    "attn.k": Place("transformer.h.{}.attn.c_attn", 1, is_transposed=True),
    "attn.v": Place("transformer.h.{}.attn.c_attn", 2, is_transposed=True),
    "attn.out": Place("transformer.h.{}.attn.c_proj", is_transposed=True),
    "mlp_norm": Place("transformer.h.{}.ln_2"),
    "mlp.up": Place("transformer.h.{}.mlp.c_fc", is_transposed=True),
    "mlp.down": Place("transformer.h.{}.mlp.c_proj", is_transposed=True),
    "final_norm": Place("transformer.ln_f"),
    "head": Place("lm_head"),
}
LLAMA_PLACES = {
    "embed": Place("model.embed_tokens"),
    "attn_norm": Place("model.layers.{}.input_layernorm"),
    "attn.q": Place("model.layers.{}.self_attn.q_proj"),
    "attn.k": Place("model.layers.{}.self_attn.k_proj"),
    "attn.v": Place("model.layers.{}.self_attn.v_proj"),
    "attn.q_norm": Place("model.layers.{}.self_attn.q_norm"),
    "attn.k_norm": Place("model.layers.{}.self_attn.k_norm"),
    "attn.out": Place("model.layers.{}.self_attn.o_proj"),
    "mlp_norm": Place("model.layers.{}.post_attention_layernorm"),
    "mlp.gate": Place("model.layers.{}.mlp.gate_proj"),
    "mlp.up": Place("model.layers.{}.mlp.up_proj"),
    "mlp.down": Place("model.layers.{}.mlp.down_proj"),
    "final_norm": Place("model.norm"),
    "head": Place("lm_head"),
}


def gpt2_settings(model: ModelConfig) -> dict[str, Any]:
    shape = Shape.of(model)
    return {
        "vocab_size": shape.vocab_size,
        "n_positions": shape.seq_len,
        "n_embd": shape.d_model,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_inner": shape.d_ff,
        "activation_function": "gelu_new" if model.activation == "gelu_tanh" else model.activation,
        "layer_norm_epsilon": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def llama_settings(model: ModelConfig) -> dict[str, Any]:
    shape = Shape.of(model)
    return {
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.seq_len,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.d_ff,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "tie_word_embeddings": model.tie_embeddings,
    }


@dataclass(frozen=True)
class Family:
    """A class of models: the settings that describe ours to it, and where it keeps each parameter."""

    settings: Callable[[ModelConfig], dict[str, Any]]
    build: Callable[[dict[str, Any]], PreTrainedModel]
    places: Mapping[str, Place]

    def model(self, model: ModelConfig, weights: Mapping[str, Tensor], **planted: Any) -> PreTrainedModel:
        """The library's model with `weights` (by our names) in their places; `planted` settings override ours."""
        theirs = self.build(self.settings(model) | planted).eval()
        for parameter in theirs.parameters():
            parameter.data.fill_(torch.nan)
        for name, tensor in self.parts(model, {name: p.data for name, p in theirs.named_parameters()}).items():
            tensor.copy_(weights[name])
        missed = [name for name, parameter in theirs.named_parameters() if parameter.isnan().any()]
        assert not missed, f"no weights of ours for {missed}"
        return theirs

    def swapped(self, one: str, other: str) -> "Family":
        """To plant a fault: the family with two parameters in each other's places."""
        places = {**self.places, one: self.places[other], other: self.places[one]}
        return replace(self, places=places)

    def gradients(self, model: ModelConfig, theirs: PreTrainedModel) -> dict[str, Tensor]:
        """The library's gradients, by our names and in our orientation."""
        return self.parts(model, {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})

    def parts(self, model: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of `tensors` (by the library's names) that are our parameters, by our names."""
        parts = {}
        for param in param_table(model):
            found = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", param.name)
            assert found is not None, param.name
            layer, key, kind = found.groups()
            place = self.places[key]
            tensor = tensors[f"{place.module.format(layer)}.{kind}"]
            tensor = tensor.t() if place.is_transposed else tensor
            parts[param.name] = tensor if place.third is None else tensor.chunk(3)[place.third]
        return parts


GPT2 = Family(gpt2_settings, lambda settings: GPT2LMHeadModel(GPT2Config(**settings)), GPT2_PLACES)
LLAMA = Family(llama_settings, lambda settings: LlamaForCausalLM(LlamaConfig(**settings)), LLAMA_PLACES)
QWEN3 = Family(llama_settings, lambda settings: Qwen3ForCausalLM(Qwen3Config(**settings)), LLAMA_PLACES)
