"""Tensor-parallel layers, by megatron-core where tp > 1 and plain torch where tp = 1.

Legend: L sequence, B batch, D model width, V vocabulary; activations are (L, B, D), and with sequence parallelism
(L / tp, B, D) between the parallel regions. Weights are (out, in) as in torch.nn.Linear:

    column: W is cut along `out`; every rank sees the whole input and makes its slice of the output.
    row:    W is cut along `in`; every rank sees its slice of the input, and the outputs are summed over ranks.

Nothing here fills the weights: `trainer/model/init.py` does, from global indices.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.parallel.context import ContextParallel
from foretrain.parallel.groups import Groups

IGNORE = -100
"""Target of a position that carries no loss."""


class TensorParallel:
    """Makes the layers of one rank, and the operations between them."""

    def __init__(
        self,
        size: int = 1,
        rank: int = 0,
        sp: bool = False,
        group: dist.ProcessGroup | None = None,
        context: ContextParallel | None = None,
    ) -> None:
        """Rank `rank` of `size`; one rank needs no group. `context`: how attention sees the whole sequence."""
        self.size, self.rank, self.sp = size, rank, sp
        self.context = context or ContextParallel()
        self._group = group
        if size == 1:
            return
        from megatron.core.model_parallel_config import ModelParallelConfig
        from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce

        # Its advice on CUDA_DEVICE_MAX_CONNECTIONS, which shim.py follows already, also breaks compiled graphs.
        linear_with_grad_accumulation_and_async_allreduce.warned = True  # type: ignore[attr-defined]
        self._config = ModelParallelConfig(
            tensor_model_parallel_size=self.size,
            sequence_parallel=self.sp,
            use_cpu_initialization=True,
            perform_initialization=False,
            gradient_accumulation_fusion=False,
        )

    @classmethod
    def of(cls, groups: Groups) -> "TensorParallel":
        """This rank's place among `groups`."""
        return cls(groups.layout.tp, groups.at.tp, groups.layout.sp, groups.tp, ContextParallel(groups.cp))

    def column(self, in_features: int, out_features: int, bias: bool) -> "Linear":
        """Linear layer from (L, B, in) to this rank's (L, B, out / tp); gathers a split sequence."""
        if self.size == 1:
            return Linear(nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias))
        from megatron.core.tensor_parallel import ColumnParallelLinear

        layer = ColumnParallelLinear(
            in_features, out_features, config=self._config, init_method=_untouched, bias=bias, gather_output=False
        )
        return Linear(_mark(layer, dim=0))

    def row(self, in_features: int, out_features: int) -> "Linear":
        """Linear layer from this rank's (L, B, in / tp) to the sum over ranks (L, B, out); splits the sequence again.

        It has no bias: one would be added once, after the sum, by the caller.
        """
        if self.size == 1:
            return Linear(nn.utils.skip_init(nn.Linear, in_features, out_features, bias=False))
        from megatron.core.tensor_parallel import RowParallelLinear

        layer = RowParallelLinear(
            in_features,
            out_features,
            config=self._config,
            init_method=_untouched,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
        )
        return Linear(_mark(layer, dim=1))

    def embedding(self, num_rows: int, width: int) -> "Embedding":
        """Embedding whose rows are cut over ranks: tokens (B, L) to (L, B, D), the sequence split under sp."""
        return Embedding(self, num_rows, width)

    def head(self, x_LBD: Tensor, weight_VD: Tensor) -> Tensor:
        """Logits (L, B, V / tp) of the whole sequence from this rank's rows of the head's matrix."""
        if self.size == 1:
            return F.linear(x_LBD, weight_VD)
        from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce

        return linear_with_grad_accumulation_and_async_allreduce(
            x_LBD,
            weight_VD,
            None,
            gradient_accumulation_fusion=False,
            allreduce_dgrad=not self.sp,
            sequence_parallel=self.sp,
            tp_group=self._group,
        )

    def enter(self, x_LBD: Tensor) -> Tensor:
        """The whole sequence (L, B, D), for a layer that is not cut but feeds this rank's heads alone.

        Its gradient is this rank's share, so the backward pass sums it over ranks.
        """
        if self.size == 1:
            return x_LBD
        from megatron.core.tensor_parallel import mappings

        if self.sp:
            return mappings.gather_from_sequence_parallel_region(x_LBD, tensor_parallel_output_grad=True)
        return mappings.copy_to_tensor_model_parallel_region(x_LBD)

    def replicated(self, parameter: Tensor) -> Tensor:
        """A replicated parameter that acts on this rank's part of the sequence: its gradient is summed over ranks."""
        return self.summed(parameter) if self.sp else parameter

    def summed(self, parameter: Tensor) -> Tensor:
        """A replicated parameter that acts on this rank's part of anything: its gradient is summed over ranks."""
        if self.size == 1:
            return parameter
        from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region

        return copy_to_tensor_model_parallel_region(parameter)

    def sequence_slice(self, local_len: int) -> slice:
        """This rank's positions of the whole sequence between parallel regions, of which its cp rank has `local_len`.

        All of those, or its part of them under sequence parallelism.
        """
        first = self.context.rank * local_len
        if not self.sp:
            return slice(first, first + local_len)
        part = local_len // self.size
        return slice(first + self.rank * part, first + (self.rank + 1) * part)

    def cross_entropy(self, logits_LBV: Tensor, targets_BL: Tensor) -> Tensor:
        """Loss of each position (L, B) in nats and fp32 (fp64 for fp64 logits), 0 where the target is IGNORE.

        `logits_LBV` are this rank's slice of the vocabulary, and may be overwritten.
        """
        targets_LB = targets_BL.transpose(0, 1).contiguous()
        if self.size == 1:
            logits_NV = logits_LBV.flatten(0, 1)
            logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
            loss_N = F.cross_entropy(logits_NV, targets_LB.flatten(), ignore_index=IGNORE, reduction="none")
            return loss_N.view_as(targets_LB)
        from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

        valid_LB = targets_LB != IGNORE
        loss_LB = vocab_parallel_cross_entropy(logits_LBV.float(), targets_LB.masked_fill(~valid_LB, 0))
        return loss_LB * valid_LB


class Embedding(nn.Module):
    """Token embedding, its rows cut over tensor-parallel ranks."""

    def __init__(self, tp: TensorParallel, num_rows: int, width: int) -> None:
        super().__init__()
        self._parallel = tp.size > 1
        if not self._parallel:
            self.inner: nn.Module = nn.utils.skip_init(nn.Embedding, num_rows, width)
            return
        from megatron.core.tensor_parallel import VocabParallelEmbedding

        self.inner = _mark(
            VocabParallelEmbedding(
                num_rows,
                width,
                init_method=_untouched,
                reduce_scatter_embeddings=tp.sp,
                config=tp._config,
            ),
            dim=0,
        )
        self._scatters = tp.sp

    @property
    def weight(self) -> nn.Parameter:
        """This rank's rows (V / tp, D)."""
        return self.inner.weight  # type: ignore[return-value]

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x = self.inner(tokens_BL)
        if self._parallel and self._scatters:
            return x  # megatron-core has already turned it to (L / tp, B, D)
        return x.transpose(0, 1).contiguous()


class Linear(nn.Module):
    """A linear layer of torch or megatron-core: a tensor in, a tensor out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> nn.Parameter:
        """This rank's part (out, in) of the matrix."""
        return self.inner.weight  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        """This rank's part of the bias."""
        return self.inner.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y[0] if isinstance(y, tuple) else y  # megatron-core returns (output, bias)


def _mark(layer: nn.Module, dim: int) -> nn.Module:
    """Tell DeepSpeed's gradient norm that parameters are cut over ranks (megatron-core does so only when it inits)."""
    from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

    for name, parameter in layer.named_parameters():
        if not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, True, 0 if name == "bias" else dim, 1)
    return layer


def _untouched(weight: Tensor) -> Tensor:
    return weight
