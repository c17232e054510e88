"""Whether the loss is computed from all logits of a micro-batch at once, or from parts of them. Imports no torch.

Logits at once need about four times the bytes that they have in fp32: in the precision of the model and in fp32, their
log-softmax, and both gradients. Under tensor parallelism megatron-core's loss works in place and needs about half of
that. Parts need a fraction. They cost a third more of the head's FLOPs, because the backward pass computes the logits
again, and about thirty kernels for each part.
"""

from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.table import flops_per_token, head_flops

PART_BYTES = 2**27
"""The most that the logits of a part have in fp32."""
LARGE_BYTES = 2**29
"""Logits of a micro-batch that are larger than this in fp32 are computed in parts, if it costs little."""
HUGE_BYTES = 7 * 2**29
"""Logits that are larger than this in fp32 are always computed in parts."""
MAX_COST = 0.03
"""The part of a model's FLOPs up to which a third of the head's is little."""
ROW_UNIT = 128
"""Rows of a part are a multiple of this, since GPUs multiply such matrices fastest."""


def rows_of_part(model: ModelConfig, train: TrainConfig, layout: Layout) -> int | None:
    """How many of a rank's rows of the head have logits at one time; None: all of them.

    Ranks of one layout have the same number.
    """
    assert model.vocab_size is not None
    bytes_of_row = 4 * train.micro_batch_size * model.seq_len // layout.cp
    num_bytes = bytes_of_row * -(-model.vocab_size // layout.tp)
    is_cheap = head_flops(model) / 3 <= MAX_COST * flops_per_token(model)
    if num_bytes <= (LARGE_BYTES if is_cheap else HUGE_BYTES):
        return None
    return max(1, PART_BYTES // (bytes_of_row * ROW_UNIT)) * ROW_UNIT


def recomputed_head_flops(model: ModelConfig, train: TrainConfig, layout: Layout) -> float:
    """FLOPs on a token that logits in parts add to those of the head.

    A schedule that asks for the gradients of inputs and of weights one after the other computes the logits for each.
    """
    if rows_of_part(model, train, layout) is None:
        return 0.0
    return head_flops(model) / 3 * (2 if layout.splits_backward else 1)
