"""What logits say of the targets, over a vocabulary that is sharded over tensor-parallel ranks: the cross entropy, and
whether a target is the most likely token.

Legend: B batch, L sequence, V vocabulary.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from foretrain.parallel.tensor import TensorParallel

IGNORE = -100
"""Target of a position that carries no loss."""


def cross_entropy(logits_LBV: Tensor, targets_BL: Tensor, tp: TensorParallel) -> Tensor:
    """Loss of each position (L, B) in nats and fp32 (fp64 for fp64 logits), 0 where the target is IGNORE.

    `logits_LBV` are this rank's shard of the vocabulary, and may be overwritten.
    """
    targets_LB = targets_BL.transpose(0, 1).contiguous()
    if tp.size == 1:
        logits_NV = logits_LBV.flatten(0, 1)
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        loss_N = F.cross_entropy(logits_NV, targets_LB.flatten(), ignore_index=IGNORE, reduction="none")
        return loss_N.view_as(targets_LB)
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    valid_LB = targets_LB != IGNORE
    loss_LB = vocab_parallel_cross_entropy(logits_LBV.float(), targets_LB.masked_fill(~valid_LB, 0))
    return loss_LB * valid_LB


def not_most_likely(logits_LBV: Tensor, targets_BL: Tensor, tp: TensorParallel) -> Tensor:
    """1 at each position (L, B) whose target is not the single most likely token, 0 elsewhere and at IGNORE.

    A target that shares the largest logit with another token counts as not most likely: otherwise a model that gives
    all tokens one logit would be right everywhere. `logits_LBV` are this rank's shard of the vocabulary.
    """
    targets_LB = targets_BL.transpose(0, 1)
    rows = logits_LBV.shape[-1]
    own_row_LB = targets_LB - tp.rank * rows
    is_here_LB = (own_row_LB >= 0) & (own_row_LB < rows)
    logit_LB = logits_LBV.gather(-1, own_row_LB.clamp(0, rows - 1)[..., None])[..., 0].float()
    logit_LB = torch.where(is_here_LB, logit_LB, torch.zeros_like(logit_LB))
    if tp.size > 1:
        dist.all_reduce(logit_LB, group=tp.group)  # one rank has it, and the others add 0
    num_as_likely_LB = (~(logits_LBV < logit_LB[..., None])).sum(dim=-1)  # nan counts, since it is no sound answer
    if tp.size > 1:
        dist.all_reduce(num_as_likely_LB, group=tp.group)
    return ((num_as_likely_LB != 1) & (targets_LB != IGNORE)).float()
