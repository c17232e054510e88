"""The parts from which the layers of a block are made, for one tensor-parallel rank.

Legend: L sequence, B batch, D model width, H head width. Residual activations are (L, B, D), under sequence parallelism
(L / tp, B, D).

A module's tensors have the names of the parameter table, or the module declares which parameters they hold (`held`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foretrain.configs.model import ModelConfig
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.layers import column_linear, row_linear
from foretrain.parallel.placement import without_memory
from foretrain.parallel.segments import Segments
from foretrain.parallel.tensor import TensorParallel
from foretrain.parallel.transfer import to_device
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.cache import Continuation
from foretrain.trainer.model.rope import rope_tables
from foretrain.trainer.model.shard import Held, beside


@dataclass(frozen=True, eq=False)
class Documents:
    """What attention must know about the documents of a micro-batch, made once for all blocks of a stage."""

    segments: Segments | None
    """The documents that attention stays inside; None: each sample is one document."""
    rope: tuple[Tensor, Tensor] | None
    """cos and sin (L, B, 1, H), or (L, 1, 1, H), of this rank's part of the sequence; None without rotary positions."""
    continued: Continuation | None = None
    """The keys and values of earlier positions, if text is generated with a cache; each sample is one document then."""

    @classmethod
    def of(
        cls,
        positions_BL: Tensor | None,
        seq_len: int,
        model: ModelConfig,
        context: ContextParallel,
        device: torch.device,
    ) -> "Documents":
        """Those of samples whose `seq_len` tokens have these positions in their documents (None: 0, 1, 2, ...)."""
        segments = None if positions_BL is None else Segments.of(positions_BL, device)
        if model.position != "rope":
            return cls(segments, None)
        own = context.sequence_slice(seq_len)
        cos_LH, sin_LH = rope_tables(seq_len, model.block_shape.head_dim, model.rope_theta, device)
        if positions_BL is None:
            return cls(None, (cos_LH[own, None, None], sin_LH[own, None, None]))
        own_LB = to_device(positions_BL[:, own].T, device)
        return cls(segments, (cos_LH[own_LB][:, :, None], sin_LH[own_LB][:, :, None]))

    @classmethod
    def of_continuation(cls, continued: Continuation, model: ModelConfig, device: torch.device) -> "Documents":
        """Those of new positions of samples."""
        if model.position != "rope":
            return cls(None, None, continued)
        positions_LR = continued.positions_RL.T
        cos_LH, sin_LH = rope_tables(model.seq_len, model.block_shape.head_dim, model.rope_theta, device)
        return cls(None, (cos_LH[positions_LR][:, :, None], sin_LH[positions_LR][:, :, None]), continued)


class Parts:
    """Makes the parts of one layer of a block from the layer's rows of the parameter table."""

    def __init__(self, blueprint: Blueprint, layer: str, tp: TensorParallel, recomputes: bool) -> None:
        """`layer`: the layer's name in the table, such as "blocks.3.attn". `recomputes`: as `train.recompute` says."""
        self.model, self.tp = blueprint.model, tp
        self.attention_multiplier = blueprint.multipliers.attention
        """Multiplies attention logits, beside 1 / sqrt(head_dim)."""
        self.is_causal = blueprint.is_causal
        """Whether a position attends to itself and earlier positions only."""
        self._recomputes = recomputes
        self._rows = blueprint.rows_of(layer)

    def column(self, *names: str) -> "FusedColumn":
        """The column-parallel matrices of these names, as one layer that returns the output of each."""
        rows = [self._rows[f"{name}.weight"] for name in names]
        sizes, width = [row.shape[0] for row in rows], rows[0].shape[1]
        has_bias, multiplier = f"{names[0]}.bias" in self._rows, rows[0].multiplier
        return without_memory(FusedColumn(self.tp, width, names, sizes, has_bias, multiplier))

    def row(self, name: str) -> "Row":
        """The row-parallel matrix of this name, with its bias if it has one."""
        row = self._rows[f"{name}.weight"]
        return without_memory(Row(self.tp, row.shape[1], row.shape[0], f"{name}.bias" in self._rows, row.multiplier))

    def head_norm(self, name: str) -> "Norm | None":
        """The RMSNorm over the width of a head, if the table has a gain for it."""
        row = self._rows.get(f"{name}.weight")
        return None if row is None else Norm(self.model, row.shape[0], self.tp, per_head=True)

    def multiplier(self, name: str) -> float:
        """What the input of a matrix is multiplied by. The parts above do so already."""
        return self._rows[name].multiplier

    def selective(self, function: Callable[..., Tensor], *inputs: "Tensor | Documents") -> Tensor:
        """function(*inputs); if train.recompute is selective, nothing between the inputs and the output is kept."""
        return checkpointed(function, *inputs) if self._recomputes else function(*inputs)


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with or without bias, over the last dimension."""

    def __init__(self, model: ModelConfig, width: int, tp: TensorParallel, per_head: bool = False) -> None:
        super().__init__()
        self._kind = "rmsnorm" if per_head else model.norm
        self._eps = model.norm_eps
        # A gain for heads acts on this rank's heads only. Others act, under sp, on this rank's part of the sequence.
        self._parameter = tp.allreduce_grad if per_head else tp.allreduce_grad_if_sp
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if self._kind == "layernorm" and model.bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self._parameter(self.weight)
        if self._kind == "rmsnorm":
            return F.rms_norm(x, weight.shape, weight, self._eps)
        bias = None if self.bias is None else self._parameter(self.bias)
        return F.layer_norm(x, weight.shape, weight, bias, self._eps)


class FusedColumn(nn.Module):
    """Column-parallel matrices that share an input, as one tensor; `names` and global `sizes` list them from the top.

    In the table they are named beside this module, not below it.
    """

    def __init__(
        self,
        tp: TensorParallel,
        width: int,
        names: Sequence[str],
        sizes: Sequence[int],
        bias: bool,
        multiplier: float = 1.0,
    ) -> None:
        """`multiplier` multiplies the input, so that biases are left as they are."""
        super().__init__()
        self._names, self._sizes = names, [size // tp.size for size in sizes]
        self._multiplier = multiplier
        self.linear = column_linear(tp, width, sum(sizes), bias)

    def forward(self, x_LBD: Tensor) -> tuple[Tensor, ...]:
        return self.linear(scaled(x_LBD, self._multiplier)).split(self._sizes, dim=-1)

    def held(self, name: str) -> Iterator[Held]:
        start = 0
        for part, size in zip(self._names, self._sizes, strict=True):
            rows = slice(start, start + size)
            yield beside(name, f"{part}.weight"), self.linear.weight, rows
            if self.linear.bias is not None:
                yield beside(name, f"{part}.bias"), self.linear.bias, rows
            start += size


class Row(nn.Module):
    """A row-parallel matrix; its bias is added once, to the sum."""

    def __init__(
        self, tp: TensorParallel, in_features: int, out_features: int, bias: bool, multiplier: float = 1.0
    ) -> None:
        """`multiplier` multiplies the input, so that the bias is left as it is."""
        super().__init__()
        self._tp, self._multiplier = tp, multiplier
        self.linear = row_linear(tp, in_features, out_features)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(scaled(x, self._multiplier))
        return x if self.bias is None else x + self._tp.allreduce_grad_if_sp(self.bias)

    def held(self, name: str) -> Iterator[Held]:
        yield f"{name}.weight", self.linear.weight, slice(0, len(self.linear.weight))
        if self.bias is not None:
            yield f"{name}.bias", self.bias, slice(0, len(self.bias))


def scaled(x: Tensor, factor: float) -> Tensor:
    """x * factor; a factor of 1 costs nothing."""
    return x if factor == 1.0 else x * factor


def checkpointed(function: Callable[..., Tensor], *inputs: Tensor | Documents | None) -> Tensor:
    """function(*inputs), which keeps only the inputs: the backward pass computes the rest again.

    The state of random generators is not kept, because nothing in the model is random.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
