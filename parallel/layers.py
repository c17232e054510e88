"""Tensor-parallel layers: megatron-core's if tp > 1, and torch's own if tp = 1.

Legend: L sequence, B batch, D model width, V vocabulary. Weights are (out, in) as in torch.nn.Linear:

    column: W is sharded along `out`; every rank sees the full input and makes its shard of the output.
    row:    W is sharded along `in`; every rank sees its shard of the input, and the outputs are summed over ranks.

Nothing here fills the weights: `trainer/model/init.py` does, from global indices.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.parallel.loss_in_parts import cross_entropy_in_parts
from foretrain.parallel.tensor import TensorParallel


class Linear(nn.Module):
    """A linear layer of torch or megatron-core: a tensor in, a tensor out.

    `compute(inner, x)`, if given, is its forward pass; by default, it is the inner layer's own.
    """

    def __init__(self, inner: nn.Module, compute: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self._compute = compute or _call

    @property
    def weight(self) -> nn.Parameter:
        """This rank's shard (out, in) of the matrix."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        """This rank's shard of the bias."""
        return self.inner.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self._compute(self.inner, x)


def _call(inner: nn.Module, x: Tensor) -> Tensor:
    y = inner(x)
    return y[0] if isinstance(y, tuple) else y  # megatron-core returns (output, bias)


def column_linear(tp: TensorParallel, in_features: int, out_features: int, bias: bool) -> Linear:
    """Linear layer from (L, B, in) to this rank's (L, B, out / tp); under sp it gathers the sequence first."""
    if tp.size == 1:
        return _linear_of_one(tp, in_features, out_features, bias)
    from megatron.core.tensor_parallel import ColumnParallelLinear

    layer = ColumnParallelLinear(
        in_features, out_features, config=tp.config, init_method=_keep, bias=bias, gather_output=False
    )
    return Linear(_mark_sharded(layer, dim=0), tp.outside_graphs(_splitting(_split_column, tp)))


def row_linear(tp: TensorParallel, in_features: int, out_features: int) -> Linear:
    """Linear layer from this rank's (L, B, in / tp) to the sum over ranks (L, B, out); under sp it splits the sequence.

    It has no bias: the caller adds one, once, to the sum.
    """
    if tp.size == 1:
        return _linear_of_one(tp, in_features, out_features, bias=False)
    from megatron.core.tensor_parallel import RowParallelLinear

    layer = RowParallelLinear(
        in_features,
        out_features,
        config=tp.config,
        init_method=_keep,
        bias=False,
        input_is_parallel=True,
        skip_bias_add=False,
    )
    return Linear(_mark_sharded(layer, dim=1), tp.outside_graphs(_splitting(_split_row, tp)))


def _linear_of_one(tp: TensorParallel, in_features: int, out_features: int, bias: bool) -> Linear:
    """The linear layer of a single tensor-parallel rank.

    A graph of compiled code has one backward function, which computes all gradients. Where these are asked for one
    after the other, the products of matrices stay outside of graphs, so that none is computed twice.
    """
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)
    return Linear(layer, tp.outside_graphs(_call) if tp.splits_backward else None)


class Embedding(nn.Module):
    """Token embedding whose rows are sharded: tokens (B, L) to (L, B, D), the sequence split under sp."""

    def __init__(self, tp: TensorParallel, num_rows: int, width: int) -> None:
        super().__init__()
        self._scatters = tp.size > 1 and tp.sp
        if tp.size == 1:
            self.inner: nn.Module = nn.utils.skip_init(nn.Embedding, num_rows, width)
            return
        from megatron.core.tensor_parallel import VocabParallelEmbedding

        layer = VocabParallelEmbedding(
            num_rows, width, init_method=_keep, reduce_scatter_embeddings=tp.sp, config=tp.config
        )
        self.inner = _mark_sharded(layer, dim=0)

    @property
    def weight(self) -> nn.Parameter:
        """This rank's rows (V / tp, D)."""
        return self.inner.weight  # type: ignore[return-value]

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x = self.inner(tokens_BL)
        # megatron-core turns it to (L / tp, B, D) itself when it splits the sequence.
        return x if self._scatters else x.transpose(0, 1).contiguous()


class Head(nn.Module):
    """The matrix of logits, whose rows are sharded as an embedding's are; `weight` may be a tied embedding's."""

    def __init__(
        self, tp: TensorParallel, weight: nn.Parameter, num_valid_rows: int, rows_of_part: int | None = None
    ) -> None:
        """`num_valid_rows`: rows of this rank, from the first, that are not padding.

        `rows_of_part`: how many rows have logits at one time while losses are computed; None: no losses are.
        """
        super().__init__()
        self.weight = weight
        self._tp, self._num_valid_rows, self._rows_of_part = tp, num_valid_rows, rows_of_part

    def forward(self, x_LBD: Tensor, targets_BL: Tensor | None = None) -> Tensor:
        """Logits (L, B, V / tp) of the full sequence, those of padding -inf. With targets, their losses (L, B)."""
        if targets_BL is not None:
            assert self._rows_of_part is not None
            sizes = {"num_valid_rows": self._num_valid_rows, "rows_of_part": self._rows_of_part}
            return cross_entropy_in_parts(x_LBD, self.weight, targets_BL, self._tp, **sizes)
        logits_LBV = self._logits(x_LBD, self.weight)
        if self._num_valid_rows == len(self.weight):
            return logits_LBV
        return _MaskPadding.apply(logits_LBV, self._num_valid_rows)

    def _logits(self, x_LBD: Tensor, weight_VD: Tensor) -> Tensor:
        tp = self._tp
        if tp.size == 1:
            return F.linear(x_LBD, weight_VD)
        if tp.splits_backward:
            return _split_column(tp, x_LBD, weight_VD, None)
        from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce

        return linear_with_grad_accumulation_and_async_allreduce(
            x_LBD,
            weight_VD,
            None,
            gradient_accumulation_fusion=False,
            allreduce_dgrad=not tp.sp,
            sequence_parallel=tp.sp,
            tp_group=tp.group,
        )


class _MaskPadding(torch.autograd.Function):
    """Sets logits from a column on to -inf, in place.

    Autograd's own function for it would copy their gradient. Since the softmax of -inf is 0, it is 0 there already.
    """

    @staticmethod
    def forward(ctx: Any, logits_LBV: Tensor, first: int) -> Tensor:
        logits_LBV[..., first:] = -torch.inf
        ctx.mark_dirty(logits_LBV)
        return logits_LBV

    @staticmethod
    def backward(ctx: Any, gradient_LBV: Tensor) -> tuple[Tensor, None]:
        return gradient_LBV, None


# megatron-core's layers have one backward function for both gradients: a zero-bubble schedule, which asks for that of
# the input first and for that of the weight later, would have all of it computed twice. These have a node for each
# part. What they lose is the overlap of communication with the product of the weight's gradient, which is in another
# phase anyway, and under sp the memory of an input that megatron-core would gather again.


def _splitting(split: Callable[..., Tensor], tp: TensorParallel) -> Callable[[nn.Module, Tensor], Tensor]:
    """What computes the forward pass of megatron-core's layer: `split`, or where that is not asked for, the layer."""
    if not tp.splits_backward:
        return _call
    return lambda layer, x: split(tp, x, layer.weight, layer.bias)


def _split_column(tp: TensorParallel, x_LBD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(tp.full_sequence(x_LBD), weight, bias)


def _split_row(tp: TensorParallel, x_LBD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return tp.sum_outputs(F.linear(x_LBD, weight, bias))


def _mark_sharded(layer: nn.Module, dim: int) -> nn.Module:
    """Mark parameters as sharded for DeepSpeed's gradient norm: megatron-core does so only when it initializes them."""
    from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

    for name, parameter in layer.named_parameters():
        if not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, True, 0 if name == "bias" else dim, 1)
    return layer


def _keep(weight: Tensor) -> Tensor:
    return weight
