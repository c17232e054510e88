"""Gradients under ZeRO 2: those of each micro-batch are reduced, and a replica keeps its own shard of the sum."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import free
from foretrain.parallel.zero.buckets import Bucket
from foretrain.parallel.zero.gradients import Gradients

MAX_IN_FLIGHT = 2
"""Complete buckets that have memory while they are reduced: the sum of one overlaps with the gradients of the next."""


class ShardedGradients(Gradients):
    """Sums the gradients of each micro-batch over the replicas, and adds this replica's shard to that of the step.

    Complete buckets exist only between their first gradient in a micro-batch and their sum over the replicas.
    """

    def __init__(
        self, groups: Groups, parameters: Sequence[nn.Parameter], buckets: Sequence[Bucket], num_passes: Sequence[int]
    ) -> None:
        super().__init__(groups, parameters, buckets, num_passes, shards=True, num_held_back=0)

    def _allocate(self) -> None:
        self.reduced = [
            torch.zeros(each.size // each.num_shards, dtype=torch.float32, device=self._device)
            for each in self._buckets
        ]
        self._filling: dict[int, Tensor] = {}
        """The buckets that have gradients and are not reduced yet."""
        self._in_flight: list[tuple[dist.Work, int, Tensor, Tensor]] = []
        """For each running sum, oldest first: the bucket's number, this replica's shard of the sum, and its input."""

    def start(self, *, reduces: bool = True) -> None:
        super().start(reduces=reduces)
        self._filling.clear()
        for shard in self.reduced:
            shard.zero_()

    @torch.no_grad()
    def end_micro_batch(self) -> None:
        """Reduce the buckets that are left, of which some parameters may have had no gradient in this micro-batch."""
        self._launch_all()
        self._expect_passes()

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for all sums over the replicas."""
        self._is_open = False
        self._await_works()

    def destroy(self) -> None:
        for hook in self._hooks:
            hook.remove()
        free(self.reduced)

    def _memory_of(self, number: int) -> Tensor:
        if number not in self._filling:
            self._filling[number] = torch.zeros(self._buckets[number].size, dtype=torch.float32, device=self._device)
        return self._filling[number]

    def _drop(self, number: int) -> None:
        del self._filling[number]

    def _reduce(self, number: int, flat: Tensor) -> None:
        del self._filling[number]
        if self._group.size() == 1:
            self.reduced[number].add_(flat)
            return
        self._await_works(MAX_IN_FLIGHT - 1)
        shard = torch.empty_like(self.reduced[number])
        work = dist.reduce_scatter_tensor(shard, flat, group=self._group, async_op=True)
        assert work is not None
        self._in_flight.append((work, number, shard, flat))

    def _await_works(self, num_left: int = 0) -> None:
        """Add the oldest sums to those of the step, until `num_left` are running."""
        while len(self._in_flight) > num_left:
            work, number, shard, _ = self._in_flight.pop(0)
            work.wait()
            self.reduced[number].add_(shard)
