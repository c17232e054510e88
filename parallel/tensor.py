"""This rank's place in tensor parallelism, and how gradients and sequences cross its ranks, by megatron-core.

Legend: L sequence, B batch, D model width; activations are (L, B, D), and with sequence parallelism (L / tp, B, D)
between the parallel layers of `parallel/layers.py`.
"""

import torch.distributed as dist
from torch import Tensor

from foretrain.parallel.compiled import Wrap, as_it_is, outside_graphs
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.groups import Groups

MATRIX_UNIT = 128
"""GPUs multiply matrices fastest whose sizes are multiples of this."""
MAX_PADDING = 0.05
"""The most that a vocabulary grows by for that."""


class TensorParallel:
    """Rank `rank` of `size` tensor-parallel ranks. `sp`: whether they split the sequence between parallel layers.

    `context` is how attention sees the full sequence. `splits_backward`: whether the gradients of inputs and of weights
    are asked for one after the other. `pads_vocabulary`: see `vocabulary_rows`. `is_compiled`: whether compiled code
    calls what this object offers; what communicates then stays outside of its graphs. A single rank needs no `group`,
    and no megatron-core.
    """

    def __init__(
        self,
        size: int = 1,
        rank: int = 0,
        sp: bool = False,
        group: dist.ProcessGroup | None = None,
        context: ContextParallel | None = None,
        splits_backward: bool = False,
        pads_vocabulary: bool = False,
        is_compiled: bool = False,
    ) -> None:
        self.size, self.rank, self.sp = size, rank, sp
        self.splits_backward = splits_backward
        self._pads_vocabulary = pads_vocabulary
        self.context = context or ContextParallel()
        self.group = group
        self.outside_graphs: Wrap = outside_graphs if is_compiled else as_it_is
        """Keeps a function outside of the graphs of compiled code, if there is such code."""
        if size == 1:
            return
        from megatron.core.model_parallel_config import ModelParallelConfig
        from megatron.core.tensor_parallel import mappings
        from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce

        # Its advice on CUDA_DEVICE_MAX_CONNECTIONS, which shim.py follows already, also breaks compiled graphs.
        linear_with_grad_accumulation_and_async_allreduce.warned = True
        self.config = ModelParallelConfig(
            tensor_model_parallel_size=size,
            sequence_parallel=sp,
            use_cpu_initialization=True,
            perform_initialization=False,
            gradient_accumulation_fusion=False,
        )
        self._copy = self.outside_graphs(mappings.copy_to_tensor_model_parallel_region)
        self._gather = self.outside_graphs(mappings.gather_from_sequence_parallel_region)
        self._reduce = self.outside_graphs(mappings.reduce_from_tensor_model_parallel_region)
        self._reduce_scatter = self.outside_graphs(mappings.reduce_scatter_to_sequence_parallel_region)

    @classmethod
    def of(cls, groups: Groups, *, is_compiled: bool = False) -> "TensorParallel":
        """This rank's place among `groups`."""
        layout, context = groups.layout, ContextParallel(groups.cp, is_compiled=is_compiled)
        return cls(
            layout.tp,
            groups.at.tp,
            layout.sp,
            groups.tp,
            context,
            layout.splits_backward,
            pads_vocabulary=True,
            is_compiled=is_compiled,
        )

    def vocabulary_rows(self, size: int) -> int:
        """How many rows each rank holds for a vocabulary of this size; the last ranks hold some, or only, padding.

        Every rank has as many. If this rank pads vocabularies, they are a multiple of MATRIX_UNIT, or of the largest
        power of 2 below it that adds at most MAX_PADDING.
        """
        unit = MATRIX_UNIT if self._pads_vocabulary else 1
        while unit > 1 and -(-size // (unit * self.size)) * unit * self.size > size * (1 + MAX_PADDING):
            unit //= 2
        return -(-size // (unit * self.size)) * unit

    def allreduce_grad(self, parameter: Tensor) -> Tensor:
        """A parameter that every rank holds, for use on this rank's part of anything: backward sums its gradient."""
        return parameter if self.size == 1 else self._copy(parameter)

    def allreduce_grad_if_sp(self, parameter: Tensor) -> Tensor:
        """A parameter that every rank holds, for use on this rank's part of the sequence, which sp makes smaller."""
        return self.allreduce_grad(parameter) if self.sp else parameter

    def full_sequence(self, x_LBD: Tensor) -> Tensor:
        """The full sequence (L, B, D), for a layer that is not sharded but feeds this rank's heads only.

        Its gradient is this rank's part of a sum, so the backward pass sums it over ranks.
        """
        if self.size == 1:
            return x_LBD
        if self.sp:
            return self._gather(x_LBD, tensor_parallel_output_grad=True)
        return self._copy(x_LBD)

    def sum_outputs(self, x_LBD: Tensor) -> Tensor:
        """The sum over ranks of a full sequence (L, B, D): all of it, or under sp this rank's part of the sequence."""
        return self._reduce_scatter(x_LBD) if self.sp else self._reduce(x_LBD)

    def sequence_slice(self, local_len: int) -> slice:
        """This rank's positions of the full sequence between parallel layers; its cp rank has `local_len` of them.

        They are all of those, or under sequence parallelism its part of them.
        """
        first = self.context.rank * local_len
        if not self.sp:
            return slice(first, first + local_len)
        part = local_len // self.size
        return slice(first + self.rank * part, first + (self.rank + 1) * part)
