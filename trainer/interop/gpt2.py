"""GPT-2: its settings, and where it keeps parameters."""

from collections.abc import Iterator
from typing import Any

from foretrain.configs.model import ModelConfig, Shape
from foretrain.trainer.interop.family import Family, differing
from foretrain.trainer.interop.folding import Folded
from foretrain.trainer.interop.tensors import Target

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
_NORMS = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}
_MATRICES = {
    ("attn.q", "attn.k", "attn.v"): "attn.c_attn",
    ("attn.out",): "attn.c_proj",
    ("mlp.up",): "mlp.c_fc",
    ("mlp.down",): "mlp.c_proj",
}
"""The matrices of a block, which the library stores (in, out), and of which of ours each is made."""


class Gpt2(Family):
    """GPT-2 (Radford et al. 2019). Its layers always have biases; those that ours does not have are 0."""

    name, architecture, model_type = "GPT-2", "GPT2LMHeadModel", "gpt2"

    def refusals(self, model: ModelConfig) -> Iterator[str]:
        yield from differing(model, norm="layernorm", position="learned", qk_norm=False)
        if model.activation not in _ACTIVATIONS:
            yield f"model.activation = {model.activation} (it needs {' or '.join(_ACTIVATIONS)})"
        shape = model.block_shape
        if shape.num_kv_heads != shape.num_heads:
            yield f"model.num_kv_heads = {shape.num_kv_heads} (it needs model.num_heads = {shape.num_heads})"
        if shape.head_dim * shape.num_heads != shape.d_model:
            yield f"model.head_dim = {shape.head_dim} (it needs d_model / num_heads)"

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        shape = Shape.of(model)
        return {
            "vocab_size": shape.vocab_size,
            "n_positions": shape.seq_len,
            "n_embd": shape.d_model,
            "n_layer": shape.num_layers,
            "n_head": shape.num_heads,
            "n_inner": shape.d_ff,
            "activation_function": _ACTIVATIONS[model.activation],
            "layer_norm_epsilon": model.norm_eps,
            # The library's default is 0.1, which would train on with dropout that this model has never seen.
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }

    def targets(self, folded: Folded) -> Iterator[Target]:
        model = folded.blueprint.model
        yield Target.of("transformer.wte.weight", folded.source("embed.weight"))
        yield Target.of("transformer.wpe.weight", folded.source("position.weight"))
        for block in range(model.num_layers):
            ours, theirs = f"blocks.{block}", f"transformer.h.{block}"
            for norm, place in _NORMS.items():
                yield from _layer(folded, f"{theirs}.{place}", f"{ours}.{norm}", is_transposed=False)
            for names, place in _MATRICES.items():
                yield from _layer(folded, f"{theirs}.{place}", *(f"{ours}.{name}" for name in names))
        yield from _layer(folded, "transformer.ln_f", "final_norm", is_transposed=False)
        if not model.tie_embeddings:
            yield Target.of("lm_head.weight", folded.source("head.weight"))


def _layer(folded: Folded, theirs: str, *ours: str, is_transposed: bool = True) -> Iterator[Target]:
    """The weight and the bias of a layer."""
    weights = [folded.source(f"{name}.weight") for name in ours]
    yield Target.of(f"{theirs}.weight", *weights, is_transposed=is_transposed)
    if folded.has(f"{ours[0]}.bias"):
        yield Target.of(f"{theirs}.bias", *(folded.source(f"{name}.bias") for name in ours))
    else:
        yield Target.zeros(f"{theirs}.bias", sum(weight.shape[0] for weight in weights))
