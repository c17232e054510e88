"""A feed-forward layer in which every token uses every matrix: what is known about it without tensors."""

from math import sqrt
from typing import TYPE_CHECKING

from foretrain.configs.model import ModelConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.layer import LayerKind, Recomputed, column_input_bytes
from foretrain.trainer.model.spec import Param, linear

if TYPE_CHECKING:
    from torch import nn

    from foretrain.trainer.model.parts import Parts


class Dense(LayerKind):
    """swiglu: down(silu(gate x) * up x); gelu: down(gelu(up x))."""

    def params(self, model: ModelConfig) -> list[Param]:
        d_model, d_ff = model.d_model, model.block_shape.d_ff
        table = []
        for name in self.names(model):
            table += linear(
                name, ("ffn", "embed"), (d_ff, d_model), "hidden", model.init_std, bias=model.bias, tensor="up"
            )
        std = model.init_std / sqrt(2 * model.num_layers)
        return table + linear("down", ("embed", "ffn"), (d_model, d_ff), "residual", std, bias=model.bias)

    def names(self, model: ModelConfig) -> list[str]:
        """The matrices that multiply the layer's input."""
        return ["gate", "up"] if model.activation == "swiglu" else ["up"]

    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        """The input; the outputs of the first matrices; and the input of the last. swiglu keeps silu's output too."""
        inner = element_bytes * model.block_shape.d_ff / layout.tp
        num_inner = len(self.names(model)) + 1
        if model.activation == "swiglu" and recompute == "none":
            num_inner += 1
        return column_input_bytes(model, layout, element_bytes) + num_inner * inner

    def module(self, parts: "Parts") -> "nn.Module":
        from foretrain.trainer.model.feed_forward.dense_module import DenseModule

        return DenseModule(parts, self.names(parts.model))
