"""Attention in which several query heads may share a key-value head: what is known about it without tensors."""

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

from foretrain.configs.model import ModelConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.layer import Flops, LayerKind, Recomputed, column_input_bytes, matrix_flops
from foretrain.trainer.model.spec import Param, gain, linear

if TYPE_CHECKING:
    from torch import nn

    from foretrain.trainer.model.parts import Parts


class GroupedQuery(LayerKind):
    """Multi-head attention, or grouped-query attention (arXiv 2305.13245) if model.num_kv_heads is smaller."""

    takes_cache = True

    def params(self, model: ModelConfig) -> list[Param]:
        shape = model.block_shape
        heads, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        table = []
        for name, axis, size in (("q", "heads", heads), ("k", "kv", kv), ("v", "kv", kv)):
            axes, sizes = (axis, "embed"), (size, shape.d_model)
            table += linear(name, axes, sizes, "hidden", model.init_std, bias=model.bias, tensor="qkv")
        if model.qk_norm:
            table += gain("q_norm", "head_dim", shape.head_dim) + gain("k_norm", "head_dim", shape.head_dim)
        std = model.init_std / sqrt(2 * model.num_layers)
        table += linear("out", ("embed", "heads"), (shape.d_model, heads), "residual", std, bias=model.bias)
        # A bias of the keys shifts all scores of a query alike, and softmax does not see it.
        return [replace(param, has_gradient=param.name != "k.bias") for param in table]

    def flops_per_token(self, model: ModelConfig, causal: bool = False) -> Flops:
        """The matrices, and 12 A s for scores and averages, with A = num_heads * head_dim and s = seq_len."""
        shape = model.block_shape
        scores = 12 * shape.num_heads * shape.head_dim * model.seq_len * (0.5 if causal else 1.0)
        return Flops(matrix_flops(self.params(model)) + scores, selective=scores)

    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        """The input; queries, keys and values; the input of the output matrix; and what is kept between these.

        Between them a fused kernel keeps queries and keys as it gets them, and an fp32 sum for each query.
        """
        shape = model.block_shape
        query_bytes = element_bytes * shape.head_dim * shape.num_heads / layout.tp
        key_bytes = element_bytes * shape.head_dim * max(1, shape.num_kv_heads / layout.tp)
        kept = column_input_bytes(model, layout, element_bytes) + 2 * query_bytes + 2 * key_bytes
        if recompute == "selective":
            return kept
        if model.position == "rope" or model.qk_norm:
            kept += query_bytes + key_bytes
        return kept + 4 * shape.num_heads / layout.tp

    def module(self, parts: "Parts") -> "nn.Module":
        from foretrain.trainer.model.attention.grouped_query_module import GroupedQueryModule

        return GroupedQueryModule(parts)
