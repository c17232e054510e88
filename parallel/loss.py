"""The cross entropy over a vocabulary that is sharded over tensor-parallel ranks.

Legend: B batch, L sequence, V vocabulary.
"""

import torch
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
