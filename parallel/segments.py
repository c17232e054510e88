"""Attention inside the segments of packed samples: one batch of SDPA for all segments of about the same length.

A sample consists of segments, each of one document. A segment attends only to itself and is causal, so rows after it
cannot change it. The segments of a micro-batch whose lengths round up to the same number are stacked; shorter ones are
padded at the end, and the padding is dropped from the output. There is no mask and no tensor of L x L, and the work
grows with the segments.

Legend: B batch, L full sequence, N query heads, K key-value heads, H head width; T = L * B tokens of a microbatch,
token (l, b) in row l * B + b; R rows of all stacks, padding included; G segments of a stack, P their common length.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretrain.parallel.sdpa import sdpa
from foretrain.parallel.transfer import to_device

MAX_STACKED = 2**15
"""Largest number of segments in one batch of SDPA: CUDA's kernels take fewer than 2^16."""
LENGTHS_PER_DOUBLING = 8
"""Number of stack lengths between n and 2 n. Padding costs less than 1 / LENGTHS_PER_DOUBLING of the work."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one micro-batch; the tensors are on the device of the queries."""

    stacks: tuple[tuple[int, int], ...]
    """(G, P) of each stack."""
    rows_R: Tensor
    """The token that each row of the stacks holds; padding repeats the last token of its segment."""
    places_T: Tensor
    """The row of the stacks that holds each token."""

    @classmethod
    def of(cls, positions_BL: Tensor, device: torch.device) -> "Segments":
        """The segments of samples, from each token's position in its document: a 0 starts one, and so does a sample.

        The positions should be on the CPU, because the sizes of the stacks are needed as plain numbers.
        """
        batch_size, seq_len = positions_BL.shape
        num_tokens = batch_size * seq_len
        begins_BL = positions_BL.cpu() == 0
        begins_BL[:, 0] = True
        starts = begins_BL.flatten().nonzero().flatten()
        lengths = torch.diff(starts, append=torch.tensor([num_tokens]))
        filled = round_up(lengths).clamp(max=seq_len)
        order = filled.argsort(stable=True)
        starts, lengths, filled = starts[order], lengths[order], filled[order]

        ends = filled.cumsum(0)
        at_R = torch.arange(int(ends[-1])) - (ends - filled).repeat_interleave(filled)  # place in the segment
        lengths_R = lengths.repeat_interleave(filled)
        token_R = starts.repeat_interleave(filled) + torch.minimum(at_R, lengths_R - 1)  # b * L + l
        rows_R = token_R % seq_len * batch_size + token_R // seq_len
        is_token_R = at_R < lengths_R
        places_T = torch.empty(num_tokens, dtype=torch.long)
        places_T[rows_R[is_token_R]] = is_token_R.nonzero().flatten()

        stacks: list[tuple[int, int]] = []
        for length, count in zip(*(x.tolist() for x in filled.unique_consecutive(return_counts=True)), strict=True):
            stacks += [(min(MAX_STACKED, count - first), length) for first in range(0, count, MAX_STACKED)]
        return cls(tuple(stacks), *(to_device(x, device) for x in (rows_R, places_T)))

    def attend(self, q_LBNH: Tensor, k_LBKH: Tensor, v_LBKH: Tensor) -> Tensor:
        """Causal attention of each token to its own segment, (L, B, N, H)."""
        out_RNH = torch.cat(
            [
                sdpa(q, k, v, is_causal=True).transpose(1, 2).flatten(0, 1)
                for q, k, v in zip(*(self._stacked(x) for x in (q_LBNH, k_LBKH, v_LBKH)), strict=True)
            ]
        )
        return _Unstack.apply(out_RNH, self.rows_R, self.places_T).unflatten(0, q_LBNH.shape[:2])

    def _stacked(self, x_LBNH: Tensor) -> list[Tensor]:
        """Each stack's heads, (G, N, P, H)."""
        x_RNH = _Stack.apply(x_LBNH.flatten(0, 1), self.rows_R, self.places_T)
        parts = x_RNH.split([count * length for count, length in self.stacks])
        return [part.unflatten(0, stack).transpose(1, 2) for part, stack in zip(parts, self.stacks, strict=True)]


def round_up(lengths: Tensor) -> Tensor:
    """The stack's length for each length: rounded up to an eighth of a power of two; lengths up to 16 are kept."""
    exponents = torch.frexp((lengths - 1).double()).exponent.long()  # lengths - 1 < 2^exponent
    steps = torch.ones_like(lengths) << (exponents - LENGTHS_PER_DOUBLING.bit_length()).clamp(min=0)
    return (lengths + steps - 1) // steps * steps


class _Stack(torch.autograd.Function):
    """Rows of tokens to rows of stacks.

    Outputs of padding are dropped, so that its gradients are 0 and need not be added.
    """

    @staticmethod
    def forward(ctx: Any, x_T: Tensor, rows_R: Tensor, places_T: Tensor) -> Tensor:
        ctx.save_for_backward(places_T)
        return x_T.index_select(0, rows_R)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places_T,) = ctx.saved_tensors
        return grads[0].index_select(0, places_T), None, None


class _Unstack(torch.autograd.Function):
    """Rows of stacks to rows of tokens. No two tokens share a row, so the gradients need no sums."""

    @staticmethod
    def forward(ctx: Any, x_R: Tensor, rows_R: Tensor, places_T: Tensor) -> Tensor:
        ctx.save_for_backward(places_T)
        ctx.num_rows = len(x_R)
        return x_R.index_select(0, places_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (places_T,) = ctx.saved_tensors
        (grad_T,) = grads
        grad_R = grad_T.new_zeros(ctx.num_rows, *grad_T.shape[1:])
        return grad_R.index_copy_(0, places_T, grad_T), None, None
