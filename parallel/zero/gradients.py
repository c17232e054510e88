"""Gradients of a step, summed in fp32 in buckets, each of which is reduced during the backward pass."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import free
from foretrain.parallel.zero.buckets import Bucket, Slot


class Gradients:
    """Sums gradients of the micro-batches in fp32, and sums each bucket over the replicas once it is complete.

    `parameters` are in the order of the buckets' numbers. `num_passes` says how many gradients of each come before its
    sum is reduced: one for each micro-batch and each stage that uses it. Buckets are reduced in their order on every
    rank, so that ranks agree whatever the order of their gradients. With `shards`, a replica gets its own shard of the
    sum only. The last `num_held_back` buckets wait for `finish`.
    """

    def __init__(
        self,
        groups: Groups,
        parameters: Sequence[nn.Parameter],
        buckets: Sequence[Bucket],
        num_passes: Sequence[int],
        *,
        shards: bool,
        num_held_back: int,
    ) -> None:
        self._group, self._device, self._shards = groups.replicas, groups.device, shards
        self._buckets = buckets
        self._parameters, self._num_passes = parameters, num_passes
        self._num_early = len(buckets) - num_held_back
        self._slots: dict[nn.Parameter, tuple[int, Slot]] = {
            parameters[slot.index]: (number, slot) for number, bucket in enumerate(buckets) for slot in bucket.slots
        }
        self._works: list[dist.Work] = []
        self._is_open = False
        self._reduces = True
        self.observer: Callable[[Tensor], None] | None = None
        """Called with the flat sum of this replica's gradients of each bucket, before the sum over the replicas."""
        self._hooks = [parameter.register_post_accumulate_grad_hook(self.take) for parameter in parameters]
        self._allocate()

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Whether the gradients of `parameter` are summed: it is trained."""
        return parameter in self._slots

    def _allocate(self) -> None:
        """Make the memory that is kept over steps."""
        self._flat = [torch.zeros(each.size, dtype=torch.float32, device=self._device) for each in self._buckets]
        parts = [each.shard(self._group.rank()) if self._shards else slice(None) for each in self._buckets]
        self.reduced = [flat[part] for flat, part in zip(self._flat, parts, strict=True)]
        """After `finish`, the sums over the replicas of each bucket: all of it, or with `shards` this replica's shard.
        The rest of the sums is then of no use."""

    def start(self, *, reduces: bool = True) -> None:
        """Begin a step: nothing is summed, whatever a step before it has left that failed.

        Without `reduces`, nothing is summed over the replicas: the buckets are only shown to the observer.
        """
        self._await_works()
        self._reduces = reduces
        for parameter in self._parameters:
            parameter.grad = None
        self._is_open = True
        self._expect_passes()

    def _expect_passes(self) -> None:
        self._summed: set[int] = set()
        """The indices of the parameters that have a sum in this step."""
        self._num_missing = [sum(self._num_passes[slot.index] for slot in bucket.slots) for bucket in self._buckets]
        self._num_launched = 0

    def take(self, parameter: nn.Parameter) -> None:
        """Add a parameter's gradient, if it has one, to its sum, and reduce the buckets that are complete now.

        It is called for each parameter in each micro-batch. Neither sums nor gradients require a gradient.
        """
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        if not self._is_open:
            raise RuntimeError(
                "a backward pass outside of a training step reached the parameters of the engine: use "
                "torch.autograd.grad, which leaves their gradients alone"
            )
        number, slot = self._slots[parameter]
        if number < self._num_launched:
            raise RuntimeError(
                f"a gradient of a parameter of shape {tuple(parameter.shape)} came after its sum was reduced: a "
                "backward pass used it more than once. Its module must be called once in each micro-batch"
            )
        total = self._memory_of(number)[slot.place].view(parameter.shape)
        if slot.index in self._summed:
            total.add_(gradient)
        else:
            total.copy_(gradient)
            self._summed.add(slot.index)
        self._num_missing[number] -= 1
        while self._num_launched < self._num_early and self._num_missing[self._num_launched] == 0:
            self._launch()

    def end_micro_batch(self) -> None:
        """After the backward pass of a micro-batch, where the engine does not leave that to a pipeline."""

    @torch.no_grad()
    def finish(self) -> None:
        """Reduce the buckets that are left, of which some parameters may have had no gradient, and wait for all."""
        self._is_open = False
        self._launch_all()
        self._await_works()

    def destroy(self) -> None:
        """Stop taking gradients, and give the memory back."""
        for hook in self._hooks:
            hook.remove()
        free(self._flat)

    def _await_works(self) -> None:
        for work in self._works:
            work.wait()
        self._works = []

    def _launch_all(self) -> None:
        while self._num_launched < len(self._buckets):
            self._launch()

    def _launch(self) -> None:
        """Start the sum over the replicas of the next bucket."""
        number = self._num_launched
        self._num_launched += 1
        flat = self._memory_of(number)
        for slot in self._buckets[number].slots:
            if slot.index not in self._summed:
                flat[slot.place].zero_()
        if self.observer is not None:
            self.observer(flat)
        if self._reduces:
            self._reduce(number, flat)
        else:
            self._drop(number)

    def _memory_of(self, number: int) -> Tensor:
        """The flat tensor in which the gradients of a bucket are summed."""
        return self._flat[number]

    def _drop(self, number: int) -> None:
        """Forget the gradients of a bucket, which are not reduced."""

    def _reduce(self, number: int, flat: Tensor) -> None:
        if self._group.size() == 1:
            return
        if self._shards:
            work = dist.reduce_scatter_tensor(self.reduced[number], flat, group=self._group, async_op=True)
        else:
            work = dist.all_reduce(flat, group=self._group, async_op=True)
        assert work is not None
        self._works.append(work)
