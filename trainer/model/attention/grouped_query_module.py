"""The module of grouped-query attention, for one tensor-parallel rank.

Legend: L sequence, B batch, D model width, N query heads, K key-value heads, H head width; heads are this rank's.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.trainer.model.parts import Documents, Parts, scaled
from foretrain.trainer.model.rope import rotate
from foretrain.trainer.model.shard import Held, beside


class GroupedQueryModule(nn.Module):
    """Self-attention over the full sequence, or inside its documents, for this rank's heads."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        shape, tp = parts.model.block_shape, parts.tp
        self._head_dim = shape.head_dim
        self._multiplier = parts.attention_multiplier
        self._context, self._is_causal = tp.context, parts.is_causal
        self._run = parts.selective
        shares_kv = shape.num_kv_heads % tp.size != 0
        self.qkv = parts.column("q") if shares_kv else parts.column("q", "k", "v")
        self.kv = SharedKeyValue(parts) if shares_kv else None
        self.q_norm, self.k_norm = parts.head_norm("q_norm"), parts.head_norm("k_norm")
        self.out = parts.row("out")

    def forward(self, x_LBD: Tensor, documents: Documents) -> Tensor:
        q, k, v = self.qkv(x_LBD) if self.kv is None else (*self.qkv(x_LBD), *self.kv(x_LBD))
        return self.out(self._run(self._attend, q, k, v, documents))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
        """Attention of queries (L, B, N * H) to keys and values (L, B, K * H): (L, B, N * H)."""
        q_LBNH, k_LBKH, v_LBKH = (part.unflatten(-1, (-1, self._head_dim)) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q_LBNH, k_LBKH = self.q_norm(q_LBNH), self.k_norm(k_LBKH)
        if documents.rope is not None:
            q_LBNH, k_LBKH = rotate(q_LBNH, *documents.rope), rotate(k_LBKH, *documents.rope)
        q_LBNH = scaled(q_LBNH, self._multiplier)
        if documents.continued is not None:
            return documents.continued.attend(self, q_LBNH, k_LBKH, v_LBKH).permute(2, 0, 1, 3).flatten(2)
        y_BNLH = self._context.attention(
            q_LBNH.permute(1, 2, 0, 3),
            k_LBKH.permute(1, 2, 0, 3),
            v_LBKH.permute(1, 2, 0, 3),
            self._is_causal,
            documents.segments,
        )
        return y_BNLH.permute(2, 0, 1, 3).flatten(2)


class SharedKeyValue(nn.Module):
    """Keys and values of grouped queries if there are fewer key-value heads than tensor-parallel ranks.

    Every rank holds the matrices of all heads, and uses the one head that its queries share with those of other ranks:
    gradients, each from one rank's queries, are summed over ranks.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        model, tp, shape = parts.model, parts.tp, parts.model.block_shape
        assert tp.size % shape.num_kv_heads == 0, "foretrain.parallel.layout lets no such tp through"
        self._multiplier = parts.multiplier("k.weight")
        self._tp, self._size = tp, shape.num_kv_heads * shape.head_dim
        head = tp.rank * shape.num_kv_heads // tp.size
        rows_k = torch.arange(head * shape.head_dim, (head + 1) * shape.head_dim)
        self._rows = torch.cat((rows_k, rows_k + self._size))
        self.weight = nn.Parameter(torch.empty(2 * self._size, shape.d_model))
        self.bias = nn.Parameter(torch.empty(2 * self._size)) if model.bias else None

    def forward(self, x_LBD: Tensor) -> tuple[Tensor, ...]:
        """This rank's keys and values, (L, B, H) each."""
        self._rows = self._rows.to(self.weight.device)
        weight = self._tp.allreduce_grad(self.weight)[self._rows]
        bias = None if self.bias is None else self._tp.allreduce_grad(self.bias)[self._rows]
        return F.linear(self._tp.full_sequence(scaled(x_LBD, self._multiplier)), weight, bias).chunk(2, dim=-1)

    def held(self, name: str) -> Iterator[Held]:
        for part, rows in (("k", slice(0, self._size)), ("v", slice(self._size, 2 * self._size))):
            yield beside(name, f"{part}.weight"), self.weight, rows
            if self.bias is not None:
                yield beside(name, f"{part}.bias"), self.bias, rows
