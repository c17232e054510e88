"""torch's scaled dot-product attention for grouped queries, on kernels that need no matrix of L x L."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, is_causal: bool) -> Tensor:
    """Attention of N query heads to K key-value heads, (B, N, L, H); K must divide N."""
    is_grouped = q_BNLH.shape[1] != k_BKLH.shape[1]
    if is_grouped and q_BNLH.is_cuda and q_BNLH.dtype == torch.float32:
        # On CUDA, only the flash kernel takes grouped queries, and it does not take fp32.
        repeats = q_BNLH.shape[1] // k_BKLH.shape[1]
        k_BKLH, v_BKLH = (x.repeat_interleave(repeats, dim=1) for x in (k_BKLH, v_BKLH))
        is_grouped = False
    return F.scaled_dot_product_attention(q_BNLH, k_BKLH, v_BKLH, is_causal=is_causal, enable_gqa=is_grouped)
