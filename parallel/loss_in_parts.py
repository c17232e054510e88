"""The cross entropy of a head's logits, of which only those of some rows of the vocabulary exist at a time.

The vocabulary is split, and not the positions, so that the gradient of each row of the weight is complete after one
product: it is neither summed over parts nor kept in fp32. What is summed over parts, in fp32, is the gradient of the
input, which is much smaller. The softmax of a position needs all of its logits, so the backward pass computes them
again: a fourth product beside the three of a head. Parts of the positions would save it, but would read and write the
fp32 sum of the weight's gradient in each part, which takes as long unless the parts are large, and would need its
memory from the forward pass on. Under tensor parallelism they would also have collectives in each part.

Legend: L sequence, B batch, N positions (L times B), D model width, V this rank's rows of the vocabulary, P those of a
part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from foretrain.parallel.loss import IGNORE
from foretrain.parallel.tensor import TensorParallel


def cross_entropy_in_parts(
    x_LBD: Tensor, weight_VD: Tensor, targets_BL: Tensor, tp: TensorParallel, *, num_valid_rows: int, rows_of_part: int
) -> Tensor:
    """What `cross_entropy` makes of the head's logits, (L, B), of which `rows_of_part` rows exist at a time.

    `x_LBD` is the input of the head, under sequence parallelism this rank's part of the sequence. Only the first
    `num_valid_rows` of this rank's rows of the weight are tokens; the gradient of the others is 0.
    """
    targets_LB = targets_BL.transpose(0, 1)
    x_ND = tp.full_sequence(x_LBD).flatten(0, 1)
    targets = _Targets(targets_LB.flatten(), tp.rank * len(weight_VD), num_valid_rows, rows_of_part)
    with torch.no_grad():
        losses_N, softmax = _losses(x_ND, weight_VD, targets, tp)
    if tp.splits_backward:
        # A node for each gradient, since a node for both would compute both each time that one is asked for.
        of_input_N = _Gradients.apply(x_ND, weight_VD.detach(), losses_N, targets, softmax)
        of_weight_N = _Gradients.apply(x_ND.detach(), weight_VD, torch.zeros_like(losses_N), targets, softmax)
        losses_N = of_input_N + of_weight_N
    else:
        losses_N = _Gradients.apply(x_ND, weight_VD, losses_N, targets, softmax)
    return losses_N.view(targets_LB.shape)


@dataclass(frozen=True, eq=False)
class _Targets:
    """The targets of all positions, and the parts of this rank's rows of the vocabulary, in which they may be."""

    tokens_N: Tensor
    first_row: int
    """The token of this rank's first row."""
    num_rows: int
    rows_of_part: int

    def ignored(self) -> Tensor:
        return self.tokens_N == IGNORE

    def parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The rows of each part; a row of the part for each position, (N, 1); and whether that is its target, (N,)."""
        for first in range(0, self.num_rows, self.rows_of_part):
            end = min(first + self.rows_of_part, self.num_rows)
            place_N = self.tokens_N - (self.first_row + first)
            row_N = place_N.clamp(0, end - first - 1)
            yield slice(first, end), row_N[:, None], row_N == place_N


@dataclass(frozen=True, eq=False)
class _Softmax:
    """What turns the logits of a position into probabilities, over the complete vocabulary, in fp32 or fp64."""

    largest_N: Tensor
    """The largest logit."""
    sum_N: Tensor
    """The sum of exp(logit - largest)."""


def _losses(x_ND: Tensor, weight_VD: Tensor, targets: _Targets, tp: TensorParallel) -> tuple[Tensor, _Softmax]:
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    largest_N = torch.full((len(x_ND),), -torch.inf, dtype=dtype, device=x_ND.device)
    sum_N, of_target_N = torch.zeros_like(largest_N), torch.zeros_like(largest_N)
    for part, row_N1, is_target_N in targets.parts():
        logits_NP = F.linear(x_ND, weight_VD[part])
        of_target_N += torch.where(is_target_N, logits_NP.gather(1, row_N1)[:, 0], 0)
        before_N, largest_N = largest_N, torch.maximum(largest_N, logits_NP.amax(dim=1))
        sum_N = sum_N * (before_N - largest_N).exp() + _exp(logits_NP, largest_N).sum(dim=1)
        del logits_NP  # before there are those of the next part
    if tp.size > 1:
        before_N, largest_N = largest_N, largest_N.clone()
        dist.all_reduce(largest_N, dist.ReduceOp.MAX, group=tp.group)
        sums_2N = torch.stack([sum_N * (before_N - largest_N).exp(), of_target_N])
        dist.all_reduce(sums_2N, group=tp.group)
        sum_N, of_target_N = sums_2N.unbind()
    losses_N = sum_N.log() - (of_target_N - largest_N)
    return losses_N.masked_fill_(targets.ignored(), 0), _Softmax(largest_N, sum_N)


class _Gradients(torch.autograd.Function):
    """Losses that are known already, and the gradients of the input and of the weight, if it is one that needs it."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, losses_N: Tensor, targets: _Targets, softmax: _Softmax
    ) -> Tensor:
        ctx.save_for_backward(x_ND, weight_VD)
        ctx.targets, ctx.softmax = targets, softmax
        return losses_N.view_as(losses_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_ND, weight_VD = ctx.saved_tensors
        targets, softmax = ctx.targets, ctx.softmax
        of_x_ND = torch.zeros_like(x_ND, dtype=softmax.sum_N.dtype) if ctx.needs_input_grad[0] else None
        of_weight_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        gradient_N = gradient_N.masked_fill(targets.ignored(), 0)
        for part, row_N1, is_target_N in targets.parts():
            of_logits_NP = _exp(F.linear(x_ND, weight_VD[part]), softmax.largest_N)
            of_logits_NP *= (gradient_N / softmax.sum_N)[:, None]
            of_logits_NP.scatter_add_(1, row_N1, (is_target_N * -gradient_N)[:, None])
            of_logits_NP = of_logits_NP.to(x_ND.dtype)
            if of_weight_VD is not None:
                torch.mm(of_logits_NP.T, x_ND, out=of_weight_VD[part])
            if of_x_ND is not None:
                of_x_ND += of_logits_NP @ weight_VD[part]
            del of_logits_NP  # before there are those of the next part
        if of_weight_VD is not None:
            of_weight_VD[targets.num_rows :] = 0
        return None if of_x_ND is None else of_x_ND.to(x_ND.dtype), of_weight_VD, None, None, None


def _exp(logits_NP: Tensor, largest_N: Tensor) -> Tensor:
    """exp(logit - largest), in the precision of `largest_N`."""
    return (logits_NP - largest_N[:, None]).exp_()
