"""The layers of a block, for one tensor-parallel rank.

Legend: L sequence, B batch, D model width, N query heads, K key-value heads, H head width, F feed-forward width. Sizes
inside attention and feed-forward are this rank's. Residual activations are (L, B, D), under sequence parallelism
(L / tp, B, D).

A module's tensors have the names of the parameter table, or the module declares which parameters they hold (`held`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foretrain.configs.schema import ModelConfig
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.segments import Segments
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.blueprint import Blueprint, Multipliers
from foretrain.trainer.model.rope import rope_tables, rotate
from foretrain.trainer.model.shard import Held, beside
from foretrain.trainer.model.spec import Shape


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a microbatch's samples, made once for all blocks of a stage."""

    segments: Segments
    rope: tuple[Tensor, Tensor] | None
    """cos and sin (L, B, 1, H) of this rank's part of the sequence, where the model turns queries and keys."""

    @classmethod
    def of(
        cls, positions_BL: Tensor, model: ModelConfig, context: ContextParallel, device: torch.device
    ) -> "Documents":
        """Those of samples whose tokens have these positions in their documents, over the whole sequence."""
        segments = Segments.of(positions_BL, device)
        if model.position != "rope":
            return cls(segments, None)
        seq_len = positions_BL.shape[1]
        mine_LB = positions_BL[:, context.sequence_slice(seq_len)].T.to(device, non_blocking=True)
        cos_LH, sin_LH = rope_tables(seq_len, Shape.of(model).head_dim, model.rope_theta, device)
        return cls(segments, (cos_LH[mine_LB][:, :, None], sin_LH[mine_LB][:, :, None]))


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with or without bias, over the last dimension."""

    def __init__(self, model: ModelConfig, width: int, tp: TensorParallel, per_head: bool = False) -> None:
        super().__init__()
        self._kind = "rmsnorm" if per_head else model.norm
        self._eps = model.norm_eps
        # A gain over heads sees only this rank's heads; any other sees only its part of the sequence, under sp.
        self._join = tp.summed if per_head else tp.replicated
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if self._kind == "layernorm" and model.bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self._join(self.weight)
        if self._kind == "rmsnorm":
            return F.rms_norm(x, weight.shape, weight, self._eps)
        bias = None if self.bias is None else self._join(self.bias)
        return F.layer_norm(x, weight.shape, weight, bias, self._eps)


class FusedColumn(nn.Module):
    """Column-parallel matrices that share an input, as one tensor; `names` and global `sizes` list them from the top.

    In the table they are named beside this module, not below it.
    """

    def __init__(self, tp: TensorParallel, width: int, names: list[str], sizes: list[int], bias: bool) -> None:
        super().__init__()
        self.names, self._sizes = names, [size // tp.size for size in sizes]
        self.linear = tp.column(width, sum(sizes), bias)

    def forward(self, x_LBD: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x_LBD).split(self._sizes, dim=-1)

    def held(self, name: str) -> Iterator[Held]:
        start = 0
        for part, size in zip(self.names, self._sizes, strict=True):
            rows = slice(start, start + size)
            yield beside(name, f"{part}.weight"), self.linear.weight, rows
            if self.linear.bias is not None:
                yield beside(name, f"{part}.bias"), self.linear.bias, rows
            start += size


class Row(nn.Module):
    """A row-parallel matrix; its bias is added once, to the sum."""

    def __init__(self, tp: TensorParallel, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self._tp = tp
        self.linear = tp.row(in_features, out_features)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.bias is None else x + self._tp.replicated(self.bias)

    def held(self, name: str) -> Iterator[Held]:
        yield f"{name}.weight", self.linear.weight, slice(0, len(self.linear.weight))
        if self.bias is not None:
            yield f"{name}.bias", self.bias, slice(0, len(self.bias))


class SharedKeyValue(nn.Module):
    """Keys and values of grouped queries where there are fewer key-value heads than tensor-parallel ranks.

    Every rank holds the matrices of all heads, and uses the one head that its queries share with those of other ranks:
    gradients, each from one rank's queries, are summed over ranks.
    """

    def __init__(self, model: ModelConfig, tp: TensorParallel) -> None:
        super().__init__()
        shape = Shape.of(model)
        assert tp.size % shape.num_kv_heads == 0, "foretrain.parallel.layout lets no such tp through"
        self._tp, self._size = tp, shape.num_kv_heads * shape.head_dim
        head = tp.rank * shape.num_kv_heads // tp.size
        rows_k = torch.arange(head * shape.head_dim, (head + 1) * shape.head_dim)
        self._rows = torch.cat((rows_k, rows_k + self._size))
        self.weight = nn.Parameter(torch.empty(2 * self._size, shape.d_model))
        self.bias = nn.Parameter(torch.empty(2 * self._size)) if model.bias else None

    def forward(self, x_LBD: Tensor) -> tuple[Tensor, ...]:
        """This rank's keys and values, (L, B, H) each."""
        self._rows = self._rows.to(self.weight.device)
        weight = self._tp.summed(self.weight)[self._rows]
        bias = None if self.bias is None else self._tp.summed(self.bias)[self._rows]
        return F.linear(self._tp.enter(x_LBD), weight, bias).chunk(2, dim=-1)

    def held(self, name: str) -> Iterator[Held]:
        for part, rows in (("k", slice(0, self._size)), ("v", slice(self._size, 2 * self._size))):
            yield beside(name, f"{part}.weight"), self.weight, rows
            if self.bias is not None:
                yield beside(name, f"{part}.bias"), self.bias, rows


class Attention(nn.Module):
    """Causal self-attention over the whole sequence, or inside its documents, for this rank's heads."""

    def __init__(self, model: ModelConfig, tp: TensorParallel, multipliers: Multipliers, recompute: bool) -> None:
        """`recompute`: keep queries, keys and values for the backward pass, and nothing between them and the output."""
        super().__init__()
        shape = Shape.of(model)
        self._head_dim = shape.head_dim
        self._multipliers = multipliers
        self._context = tp.context
        self._recompute = recompute
        self._rope_theta = model.rope_theta if model.position == "rope" else None
        sizes = [shape.num_heads * shape.head_dim] + 2 * [shape.num_kv_heads * shape.head_dim]
        shares_kv = shape.num_kv_heads % tp.size != 0
        num_fused = 1 if shares_kv else 3
        self.qkv = FusedColumn(tp, shape.d_model, ["q", "k", "v"][:num_fused], sizes[:num_fused], model.bias)
        self.kv = SharedKeyValue(model, tp) if shares_kv else None
        self.q_norm = Norm(model, shape.head_dim, tp, per_head=True) if model.qk_norm else None
        self.k_norm = Norm(model, shape.head_dim, tp, per_head=True) if model.qk_norm else None
        self.out = Row(tp, sizes[0], shape.d_model, model.bias)

    def forward(self, x_LBD: Tensor, documents: Documents | None = None) -> Tensor:
        x_LBD = scaled(x_LBD, self._multipliers.qkv)
        q, k, v = self.qkv(x_LBD) if self.kv is None else (*self.qkv(x_LBD), *self.kv(x_LBD))
        y = checkpointed(self._attend, q, k, v, documents) if self._recompute else self._attend(q, k, v, documents)
        return self.out(scaled(y, self._multipliers.out))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
        """Attention of queries (L, B, N * H) to keys and values (L, B, K * H): (L, B, N * H)."""
        q_LBNH, k_LBKH, v_LBKH = (part.unflatten(-1, (-1, self._head_dim)) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q_LBNH, k_LBKH = self.q_norm(q_LBNH), self.k_norm(k_LBKH)
        rope = self._rope(q_LBNH) if documents is None else documents.rope
        if rope is not None:
            q_LBNH, k_LBKH = rotate(q_LBNH, *rope), rotate(k_LBKH, *rope)
        y_BNLH = self._context.attention(
            scaled(q_LBNH, self._multipliers.attention).permute(1, 2, 0, 3),
            k_LBKH.permute(1, 2, 0, 3),
            v_LBKH.permute(1, 2, 0, 3),
            segments=None if documents is None else documents.segments,
        )
        return y_BNLH.permute(2, 0, 1, 3).flatten(2)

    def _rope(self, q_LBNH: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin (L, 1, 1, H) of this rank's part of a sequence that is one document."""
        if self._rope_theta is None:
            return None
        seq_len = len(q_LBNH) * self._context.size
        mine = self._context.sequence_slice(seq_len)
        cos_LH, sin_LH = rope_tables(seq_len, self._head_dim, self._rope_theta, q_LBNH.device)
        return cos_LH[mine, None, None], sin_LH[mine, None, None]


class FeedForward(nn.Module):
    """swiglu: down(silu(gate x) * up x); gelu: down(gelu(up x))."""

    def __init__(self, model: ModelConfig, tp: TensorParallel, multipliers: Multipliers, recompute: bool) -> None:
        """`recompute`: keep the activation's inputs for the backward pass, and nothing inside it."""
        super().__init__()
        shape = Shape.of(model)
        self._recompute = recompute
        self._multipliers = multipliers
        self._activation = model.activation
        names = ["gate", "up"] if model.activation == "swiglu" else ["up"]
        self.up = FusedColumn(tp, shape.d_model, names, [shape.d_ff] * len(names), model.bias)
        self.down = Row(tp, shape.d_ff, shape.d_model, model.bias)

    def forward(self, x_LBD: Tensor) -> Tensor:
        up = self.up(scaled(x_LBD, self._multipliers.up))
        y_LBF = checkpointed(self._activate, *up) if self._recompute else self._activate(*up)
        return self.down(scaled(y_LBF, self._multipliers.down))

    def _activate(self, *up_LBF: Tensor) -> Tensor:
        if self._activation == "swiglu":
            gate_LBF, value_LBF = up_LBF
            return F.silu(gate_LBF) * value_LBF
        return F.gelu(up_LBF[0], approximate="tanh" if self._activation == "gelu_tanh" else "none")


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, blueprint: Blueprint, tp: TensorParallel, recompute: str = "none") -> None:
        """`recompute`: "none", "selective" or "full", as in TrainConfig."""
        super().__init__()
        model, multipliers = blueprint.model, blueprint.multipliers
        self._residual = multipliers.residual
        self._recompute = recompute == "full"
        self.attn_norm = Norm(model, model.d_model, tp)
        self.attn = Attention(model, tp, multipliers, recompute == "selective")
        self.mlp_norm = Norm(model, model.d_model, tp)
        self.mlp = FeedForward(model, tp, multipliers, recompute == "selective")

    def forward(self, x_LBD: Tensor, documents: Documents | None = None) -> Tensor:
        return checkpointed(self._layers, x_LBD, documents) if self._recompute else self._layers(x_LBD, documents)

    def _layers(self, x_LBD: Tensor, documents: Documents | None) -> Tensor:
        x_LBD = x_LBD + scaled(self.attn(self.attn_norm(x_LBD), documents=documents), self._residual)
        return x_LBD + scaled(self.mlp(self.mlp_norm(x_LBD)), self._residual)


def scaled(x: Tensor, factor: float) -> Tensor:
    """x * factor; a factor of 1 costs nothing."""
    return x if factor == 1.0 else x * factor


def checkpointed(function: Callable[..., Tensor], *inputs: Tensor | Documents | None) -> Tensor:
    """function(*inputs), keeping only the inputs: the backward pass computes the rest again. Nothing here is random."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
