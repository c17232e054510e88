"""Gradients of a step, summed in fp32 in buckets, each of which is reduced during the backward pass."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import free
from foretrain.parallel.zero.buckets import Bucket


class Gradients:
    """Sums gradients of the micro-batches in fp32, and sums each bucket over the replicas once it is complete.

    `parameters` are in the order of the buckets' numbers. `num_passes` says how many gradients of each come in a step:
    one for each micro-batch and each stage that uses it. Buckets are reduced in their order on every rank, so that
    ranks agree whatever the order of their gradients. With `shards`, a replica gets its own shard of the sum only. The
    last `num_held_back` buckets wait for `finish`.
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
        self._group, self._shards = groups.replicas, shards
        self._buckets = buckets
        self._parameters, self._num_passes = parameters, num_passes
        self._num_early = len(buckets) - num_held_back
        self._flat = [torch.zeros(bucket.size, dtype=torch.float32, device=groups.device) for bucket in buckets]
        parts = [bucket.shard(self._group.rank()) if shards else slice(None) for bucket in buckets]
        self.reduced = [flat[part] for flat, part in zip(self._flat, parts, strict=True)]
        """After `finish`, the sums over the replicas of each bucket: all of it, or with `shards` this replica's shard.
        The rest of the sums is then of no use."""
        self.sums: dict[nn.Parameter, Tensor] = {}
        """The sum of each parameter's gradients, of its shape."""
        self._bucket_of: dict[nn.Parameter, int] = {}
        for number, (bucket, flat) in enumerate(zip(buckets, self._flat, strict=True)):
            for slot in bucket.slots:
                parameter = parameters[slot.index]
                self.sums[parameter] = flat[slot.place].view(parameter.shape)
                self._bucket_of[parameter] = number
        self._works: list[dist.Work] = []
        self._is_open = False
        self._hooks = [parameter.register_post_accumulate_grad_hook(self.take) for parameter in parameters]

    def start(self) -> None:
        """Begin a step: nothing is summed, whatever a step before it has left that failed."""
        self._await_works()
        for parameter in self._parameters:
            parameter.grad = None
        self._is_open = True
        self._summed: set[nn.Parameter] = set()
        self._num_missing = [sum(self._num_passes[slot.index] for slot in bucket.slots) for bucket in self._buckets]
        self._num_launched = 0

    @torch.no_grad()
    def take(self, parameter: nn.Parameter) -> None:
        """Add a parameter's gradient, if it has one, to its sum, and reduce the buckets that are complete now."""
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        if not self._is_open:
            raise RuntimeError(
                "a backward pass outside of a training step reached the parameters of the engine: use "
                "torch.autograd.grad, which leaves their gradients alone"
            )
        number = self._bucket_of[parameter]
        if number < self._num_launched:
            raise RuntimeError(
                f"a gradient of a parameter of shape {tuple(parameter.shape)} came after its sum was reduced: a "
                "backward pass used it more than once. Its module must be called once in each micro-batch"
            )
        if parameter in self._summed:
            self.sums[parameter].add_(gradient)
        else:
            self.sums[parameter].copy_(gradient)
            self._summed.add(parameter)
        self._num_missing[number] -= 1
        while self._num_launched < self._num_early and self._num_missing[self._num_launched] == 0:
            self._launch()

    @torch.no_grad()
    def finish(self) -> None:
        """Reduce the buckets that are left, of which some parameters may have had no gradient, and wait for all."""
        self._is_open = False
        while self._num_launched < len(self._buckets):
            self._launch()
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

    def _launch(self) -> None:
        number = self._num_launched
        self._num_launched += 1
        flat = self._flat[number]
        for slot in self._buckets[number].slots:
            if self._parameters[slot.index] not in self._summed:
                flat[slot.place].zero_()
        if self._group.size() == 1:
            return
        if self._shards:
            work = dist.reduce_scatter_tensor(self.reduced[number], flat, group=self._group, async_op=True)
        else:
            work = dist.all_reduce(flat, group=self._group, async_op=True)
        assert work is not None
        self._works.append(work)
