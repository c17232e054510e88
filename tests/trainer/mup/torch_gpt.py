"""The GPT of a ModelConfig in plain torch modules, named as the parameter table names them: what `mup` can read.

Nothing here is shared with `foretrain.trainer.model` but the numbers of a shape.

Legend: B batch, L sequence, N query heads, K key-value heads, H head width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.configs.model import Shape
from foretrain.configs.schema import ModelConfig

Linear = Callable[..., nn.Module]
"""(in_features, out_features, bias=...) -> a layer."""


class GPT(nn.Module):
    """Pre-norm transformer: tokens (B, L) to logits (B, L, V)."""

    def __init__(
        self,
        model: ModelConfig,
        readout: Linear,
        *,
        shared_readout: Callable[..., nn.Module] | None = None,
        attention: float = 1.0,
        kv: Linear = nn.Linear,
    ) -> None:
        """`shared_readout`, (embedding's matrix, bias=...), makes a tied head. `attention`: beside 1 / sqrt(H)."""
        super().__init__()
        shape = Shape.of(model)
        self.embed = nn.Embedding(shape.vocab_size, shape.d_model)
        self.position = nn.Embedding(shape.seq_len, shape.d_model) if model.position == "learned" else None
        self.blocks = nn.ModuleList(Block(model, attention, kv) for _ in range(shape.num_layers))
        self.final_norm = _norm(model, shape.d_model)
        if model.tie_embeddings:
            assert shared_readout is not None
            self.head = shared_readout(self.embed.weight, bias=False)
        else:
            self.head = readout(shape.d_model, shape.vocab_size, bias=False)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x = self.embed(tokens_BL)
        if self.position is not None:
            x = x + self.position.weight[: tokens_BL.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.final_norm(x))
        return logits


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, model: ModelConfig, attention: float, kv: Linear) -> None:
        super().__init__()
        self.attn_norm = _norm(model, model.d_model)
        self.attn = Attention(model, attention, kv)
        self.mlp_norm = _norm(model, model.d_model)
        self.mlp = FeedForward(model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Causal self-attention, with grouped queries where there are fewer key-value heads."""

    def __init__(self, model: ModelConfig, attention: float, kv: Linear) -> None:
        super().__init__()
        shape = Shape.of(model)
        self._head_dim, self._scale = shape.head_dim, attention / shape.head_dim**0.5
        self._theta = model.rope_theta if model.position == "rope" else None
        width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.q = nn.Linear(shape.d_model, width, bias=model.bias)
        self.k = kv(shape.d_model, kv_width, bias=model.bias)
        self.v = kv(shape.d_model, kv_width, bias=model.bias)
        self.out = nn.Linear(width, shape.d_model, bias=model.bias)
        self.q_norm: nn.Module = nn.RMSNorm(shape.head_dim, eps=model.norm_eps) if model.qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.RMSNorm(shape.head_dim, eps=model.norm_eps) if model.qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q_BNLH, k_BKLH = self.q_norm(self._heads(self.q(x))), self.k_norm(self._heads(self.k(x)))
        if self._theta is not None:
            q_BNLH, k_BKLH = rotated(q_BNLH, self._theta), rotated(k_BKLH, self._theta)
        v_BKLH = self._heads(self.v(x))
        y_BNLH = F.scaled_dot_product_attention(
            q_BNLH, k_BKLH, v_BKLH, is_causal=True, scale=self._scale, enable_gqa=True
        )
        return self.out(y_BNLH.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self._head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """swiglu, or gelu."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        shape = Shape.of(model)
        assert model.activation in ("swiglu", "gelu")
        self.gate = nn.Linear(shape.d_model, shape.d_ff, bias=model.bias) if model.activation == "swiglu" else None
        self.up = nn.Linear(shape.d_model, shape.d_ff, bias=model.bias)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=model.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        return self.down(y)


def rotated(x_BNLH: Tensor, theta: float) -> Tensor:
    """Rotary positions; dimension i turns with i + H / 2, by angles whose cosines and sines are fp32 constants."""
    length, width = x_BNLH.shape[-2:]
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos().float(), angles.sin().float()
    low, high = x_BNLH.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def _norm(model: ModelConfig, width: int) -> nn.Module:
    if model.norm == "rmsnorm":
        return nn.RMSNorm(width, eps=model.norm_eps)
    return nn.LayerNorm(width, eps=model.norm_eps, bias=model.bias)
