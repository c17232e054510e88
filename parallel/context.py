"""Context parallelism: attention over sequences that are split over ranks, by DeepSpeed's Ulysses around torch's SDPA.

A rank holds neighbouring positions of each sample. Only attention needs other positions: an all-to-all exchanges them
for heads, each rank computes attention over full sequences for its share of the heads, and a second all-to-all reverses
the exchange (arXiv 2309.14509). Kernel and mask are those of one process, and causal work is the same on every rank.

Legend: B batch, N query heads, K key-value heads, H head width; L sequence, outside `_sdpa` this rank's part of it.
"""

import math

import torch.distributed as dist
from torch import Tensor

from foretrain.parallel.batch_share import nth_part
from foretrain.parallel.compiled import as_it_is, outside_graphs
from foretrain.parallel.sdpa import sdpa
from foretrain.parallel.segments import Segments


class ContextParallel:
    """Attention over the ranks of `group`, which hold the parts of a sequence in the order of their ranks.

    Without a group, or with a group of one rank, it is SDPA. This rank is number `rank` of `size`. `is_compiled`:
    whether compiled code calls `attention`, of which its graphs then take the SDPA of complete samples only.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, *, is_compiled: bool = False) -> None:
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        self._exchange = None
        self._attend_outside = (outside_graphs if is_compiled else as_it_is)(self._attend)
        if self.size == 1:
            return
        import deepspeed.comm
        from deepspeed.sequence.layer import DistributedAttention

        # DeepSpeed's collectives need its own set-up, which deepspeed.initialize would do too late.
        deepspeed.comm.init_distributed(dist_init_required=False, verbose=False)
        self._exchange = DistributedAttention(_sdpa, group, scatter_idx=2, gather_idx=0)

    def sequence_slice(self, seq_len: int) -> slice:
        """This rank's positions of a sequence of `seq_len`, which must be a multiple of `size`."""
        return nth_part(seq_len, self.rank, self.size)

    def attention(
        self,
        q_BNLH: Tensor,
        k_BKLH: Tensor,
        v_BKLH: Tensor,
        is_causal: bool,
        segments: Segments | None = None,
    ) -> Tensor:
        """Attention of this rank's queries to the keys of the full sequence, (B, N, L, H).

        `segments` are those of the full sequence: attention stays inside each, and must be causal.

        `size` must divide N. It need not divide K: key-value heads are then sent more than once, so that each rank gets
        those of its queries. All ranks of the group must call it together, and run its backward pass together.
        """
        if self._exchange is None and segments is None:
            return sdpa(q_BNLH, k_BKLH, v_BKLH, is_causal)
        return self._attend_outside(q_BNLH, k_BKLH, v_BKLH, is_causal, segments)

    def _attend(
        self, q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, is_causal: bool, segments: Segments | None
    ) -> Tensor:
        """Attention over the ranks of the group, inside segments, or both."""
        q_LBNH, k_LBKH, v_LBKH = (x.permute(2, 0, 1, 3) for x in (q_BNLH, k_BKLH, v_BKLH))
        if self._exchange is None:
            out_LBNH = _sdpa(q_LBNH, k_LBKH, v_LBKH, is_causal, segments)
        else:
            assert q_LBNH.shape[2] % self.size == 0, f"{q_LBNH.shape[2]} query heads on {self.size} ranks"
            k_LBKH, v_LBKH = (_repeat_heads(x, self.size) for x in (k_LBKH, v_LBKH))
            out_LBNH = self._exchange(q_LBNH, k_LBKH, v_LBKH, batch_dim_idx=1, is_causal=is_causal, segments=segments)
        return out_LBNH.permute(1, 2, 0, 3)


def _repeat_heads(x_LBKH: Tensor, size: int) -> Tensor:
    """The heads, each beside its copies: the fewest copies with which each of `size` ranks gets the same number."""
    num_kv_heads = x_LBKH.shape[2]
    repeats = math.lcm(num_kv_heads, size) // num_kv_heads
    return x_LBKH if repeats == 1 else x_LBKH.repeat_interleave(repeats, dim=2)


def _sdpa(q_LBNH: Tensor, k_LBKH: Tensor, v_LBKH: Tensor, is_causal: bool, segments: Segments | None = None) -> Tensor:
    """Attention over full sequences, or inside their segments, (L, B, N, H)."""
    if segments is not None:
        assert is_causal, "the padding after a segment must not be seen"
        return segments.attend(q_LBNH, k_LBKH, v_LBKH)
    q_BNLH, k_BKLH, v_BKLH = (x.permute(1, 2, 0, 3) for x in (q_LBNH, k_LBKH, v_LBKH))
    return sdpa(q_BNLH, k_BKLH, v_BKLH, is_causal).permute(2, 0, 1, 3)
