"""Weights in buckets: each replica updates its own shard, and they are gathered while the next forward pass begins."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.parallel.groups import Groups
from foretrain.parallel.placement import Fill, allocate
from foretrain.parallel.zero.buckets import Bucket
from foretrain.parallel.zero.host_memory import pinned_like


class Weights:
    """The weights of modules as views of one flat tensor for each bucket, and the fp32 masters of this rank's shards.

    `parameters` are in the order of the buckets' numbers, and are placed on the device in `dtype`. Each replica fills
    what it owns of them, and receives the rest. With `offload`, the masters are in host memory.
    """

    def __init__(
        self,
        groups: Groups,
        modules: Sequence[nn.Module],
        parameters: Sequence[nn.Parameter],
        buckets: Sequence[Bucket],
        dtype: torch.dtype,
        fill: Fill,
        *,
        offload: bool,
    ) -> None:
        self._group, self._buckets = groups.replicas, buckets
        replica = self._group.rank()
        self._flat = [torch.zeros(bucket.size, dtype=dtype, device=groups.device) for bucket in buckets]
        self._own = [flat[bucket.shard(replica)] for flat, bucket in zip(self._flat, buckets, strict=True)]
        if offload:
            self._masters = [torch.zeros_like(own, dtype=torch.float32, device="cpu") for own in self._own]
        elif dtype == torch.float32:
            self._masters = self._own
        else:
            self._masters = [torch.zeros_like(own, dtype=torch.float32) for own in self._own]
        self._staging = [pinned_like(own) if offload and own.is_cuda else None for own in self._own]
        """From here, masters in host memory are copied to a GPU."""
        self.pieces: dict[nn.Parameter, tuple[Tensor, slice]] = {}
        """The master of what this rank owns of a parameter, one-dimensional, and which of its elements they are."""
        self._bucket_of: dict[nn.Parameter, int] = {}
        for number, bucket in enumerate(buckets):
            for slot in bucket.slots:
                parameter = parameters[slot.index]
                parameter.data = self._flat[number][slot.place].view(parameter.shape)
                self._bucket_of[parameter] = number
            for piece in bucket.pieces(replica):
                self.pieces[parameters[piece.index]] = self._masters[number][piece.in_shard], piece.in_parameter
        self._works: dict[int, dist.Work] = {}
        self._fill(fill)
        for module in modules:
            allocate([each for each in module.parameters() if each not in self._bucket_of], fill, groups.device, dtype)
            module.to(groups.device, dtype)  # its buffers
            self._await_in_forward(module)

    @torch.no_grad()
    def _fill(self, fill: Fill) -> None:
        """Fill what this replica owns, and receive the rest."""
        for parameter, (master, part) in self.pieces.items():
            fill(parameter, master, part.start)
        for own, master in zip(self._own, self._masters, strict=True):
            if own is not master:  # rounded as the weights are, since DeepSpeed's masters are
                master.copy_(own.copy_(master))
        self.gather()
        self.await_buckets()

    @torch.no_grad()
    def gather(self) -> None:
        """After the masters have changed: start to send every replica's shard to the others.

        The buckets come in the reverse of their order, in which the forward pass needs them.
        """
        self.await_buckets()  # a module may not have been called since the last update
        for number in reversed(range(len(self._buckets))):
            own, staging = self._own[number], self._staging[number]
            if staging is not None:
                # The copy before has left it: since then, the host has waited for the device.
                own.copy_(staging.copy_(self._masters[number]), non_blocking=True)
            elif own is not self._masters[number]:
                own.copy_(self._masters[number])
            if self._group.size() > 1:
                work = dist.all_gather_into_tensor(self._flat[number], own, group=self._group, async_op=True)
                assert work is not None
                self._works[number] = work

    def await_buckets(self, numbers: Iterable[int] | None = None) -> None:
        """Wait for these buckets; None: for all."""
        if not self._works:
            return
        for number in list(self._works) if numbers is None else numbers:
            work = self._works.pop(number, None)
            if work is not None:
                work.wait()

    def _await_in_forward(self, module: nn.Module) -> None:
        """Let forward passes wait for weights: those of a unit when it is called, and the others with the module."""
        units: list[nn.Module] = list(module.units()) if hasattr(module, "units") else []  # type: ignore[operator]
        in_units = {each for unit in units for each in unit.modules()}
        for unit in units:
            self._await_before(unit, unit.parameters())
        # A unit may share a parameter with another module, as a tied head does.
        others = [each for each in module.modules() if each not in in_units]
        self._await_before(module, (parameter for each in others for parameter in each.parameters(recurse=False)))

    def _await_before(self, module: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        numbers = sorted({self._bucket_of[each] for each in parameters if each in self._bucket_of}, reverse=True)

        def wait(*_: object) -> None:
            self.await_buckets(numbers)

        module.register_forward_pre_hook(wait)
