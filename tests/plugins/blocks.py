"""An attention and a feed-forward layer that are not part of foretrain: a config lists this module in `plugins`.

Legend: L sequence, B batch, D model width, N heads, H head width, F feed-forward width; heads and F are this rank's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.configs.model import ModelConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.attention import ATTENTION
from foretrain.trainer.model.feed_forward import FEED_FORWARD
from foretrain.trainer.model.layer import Flops, LayerKind, Recomputed, column_input_bytes, matrix_flops
from foretrain.trainer.model.parts import Documents, Parts
from foretrain.trainer.model.spec import Param, gain, linear


class GatedAttention(LayerKind):
    """Attention without positions, whose output each token gates: out(sigmoid(gate x) * attend(x))."""

    def params(self, model: ModelConfig) -> list[Param]:
        shape, table = model.block_shape, []
        heads = shape.num_heads * shape.head_dim
        for name in ("query", "key", "value", "gate"):
            size = (heads, shape.d_model)
            table += linear(name, ("heads", "embed"), size, "hidden", model.init_std, tensor="inputs")
        return table + linear("mix", ("embed", "heads"), (shape.d_model, heads), "residual", model.init_std)

    def flops_per_token(self, model: ModelConfig, causal: bool = False) -> Flops:
        shape = model.block_shape
        scores = 12 * shape.num_heads * shape.head_dim * model.seq_len * (0.5 if causal else 1.0)
        return Flops(matrix_flops(self.params(model)) + scores, selective=scores)

    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        shape = model.block_shape
        heads_bytes = element_bytes * shape.num_heads * shape.head_dim / layout.tp
        kept = column_input_bytes(model, layout, element_bytes) + 5 * heads_bytes
        return kept if recompute == "selective" else kept + 3 * heads_bytes + 4 * shape.num_heads / layout.tp

    def module(self, parts: Parts) -> nn.Module:
        return GatedAttentionModule(parts)


class GatedAttentionModule(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._head_dim = parts.model.block_shape.head_dim
        self._scale = parts.attention_multiplier
        self._context, self._is_causal, self._run = parts.tp.context, parts.is_causal, parts.selective
        self.inputs = parts.column("query", "key", "value", "gate")
        self.mix = parts.row("mix")

    def forward(self, x_LBD: Tensor, documents: Documents) -> Tensor:
        return self.mix(self._run(self._attend, *self.inputs(x_LBD), documents))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, gate: Tensor, documents: Documents) -> Tensor:
        parts = (self._scale * query, key, value)
        q, k, v = (part.unflatten(-1, (-1, self._head_dim)).permute(1, 2, 0, 3) for part in parts)
        y_BNLH = self._context.attention(q, k, v, self._is_causal, documents.segments)
        return y_BNLH.permute(2, 0, 1, 3).flatten(2) * torch.sigmoid(gate)


class SquaredRelu(LayerKind):
    """narrow(relu(wide x)^2), with two losses: of large hidden units, and of inputs along a learned direction."""

    has_loss = True

    def params(self, model: ModelConfig) -> list[Param]:
        d_model, d_ff = model.d_model, model.block_shape.d_ff
        wide = linear("wide", ("ffn", "embed"), (d_ff, d_model), "hidden", model.init_std, bias=model.bias)
        narrow = linear("narrow", ("embed", "ffn"), (d_model, d_ff), "residual", model.init_std, bias=model.bias)
        return [*wide, *gain("direction", "embed", d_model), *narrow]

    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        inner = element_bytes * model.block_shape.d_ff / layout.tp
        kept = column_input_bytes(model, layout, element_bytes) + 2 * inner + element_bytes
        return kept if recompute == "selective" else kept + inner

    def module(self, parts: Parts) -> nn.Module:
        return SquaredReluModule(parts)


class Direction(nn.Module):
    """A vector that every tensor-parallel rank holds in full."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._tp = parts.tp
        self.weight = nn.Parameter(torch.empty(parts.model.d_model))

    def forward(self, x_LBD: Tensor) -> Tensor:
        return x_LBD @ self._tp.allreduce_grad_if_sp(self.weight)


class SquaredReluModule(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._run = parts.selective
        self._d_model, self._d_ff = parts.model.d_model, parts.model.block_shape.d_ff
        self.wide = parts.column("wide")
        self.direction = Direction(parts)
        self.narrow = parts.row("narrow")

    def forward(self, x_LBD: Tensor) -> tuple[Tensor, Tensor]:
        (hidden_LBF,) = self.wide(x_LBD)
        # A sum over this rank's hidden units, and one over this rank's part of the sequence.
        loss = hidden_LBF.square().sum() / self._d_ff + self.direction(x_LBD).square().sum() / self._d_model
        return self.narrow(self._run(lambda hidden: F.relu(hidden).square(), hidden_LBF)), 0.1 * loss


ATTENTION.register("gated", GatedAttention())
FEED_FORWARD.register("costly_relu", SquaredRelu())
