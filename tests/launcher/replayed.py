"""A run in which one bit is wrong once. Not a test module: each rank imports it."""

from typing import Any

import torch

from foretrain.parallel.zero.bucketed import BucketedZero
from foretrain.trainer.run.rank import train_rank


def train_with_a_wrong_sum(run: Any, rank: int, at_step: int) -> None:
    """Train; one bit of one sum of gradients flips on a rank after the reduction of a step, before its update."""
    update, number = BucketedZero.update, 0

    def flip_and_update(self: BucketedZero, norm: float) -> None:
        nonlocal number
        number += 1
        if number == at_step and self.groups.rank == rank:
            gradient = next(gradient for _, gradient in self._owned.values() if gradient.numel() > 5)
            gradient.view(-1).view(torch.int32)[5:6].bitwise_xor_(1 << 20)
        update(self, norm)

    BucketedZero.update = flip_and_update  # type: ignore[method-assign]
    train_rank(run)
