"""A network over tensor-parallel ranks: rank 0 asks for logits, and all ranks compute their part of them.

Only rank 0 chooses tokens, counts and prints. The others do what it asks for, in the same order, so that ranks cannot
disagree. Each has its part of the weights, and the keys and values of its heads.

Shape letters: B samples, L positions, R texts, V vocabulary.
"""

import weakref
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.parallel.groups import Groups
from foretrain.trainer.model.cache import KeyValueCache
from foretrain.trainer.text.network import Cache, Network, StageNetwork

Request = tuple[str, tuple[Any, ...], tuple[int, ...]]
"""A method of `Shard`, its arguments, and the numbers of the caches that are no longer needed."""


def gathered(part: Tensor, groups: Groups, vocab_size: int) -> Tensor | None:
    """The logits (..., V), without padding, of which each rank has a part (..., V / tp), on rank 0; None elsewhere."""
    parts = [torch.empty_like(part) for _ in range(groups.layout.tp)] if groups.rank == 0 else None
    dist.gather(part.contiguous(), parts, dst=0, group=groups.tp)
    return None if parts is None else torch.cat(parts, dim=-1)[..., :vocab_size]


class Shard:
    """One rank's part of the network. Its methods are collectives: every rank calls the same ones with the same values.

    Caches have numbers, since rank 0 names them to the others.
    """

    def __init__(self, stage: nn.Module, groups: Groups, vocab_size: int) -> None:
        self._network, self._groups, self._vocab_size = StageNetwork(stage), groups, vocab_size
        self._caches: dict[int, KeyValueCache] = {}

    def logits(self, tokens_BL: Tensor, positions_BL: Tensor | None) -> Tensor | None:
        return gathered(self._network.logits(tokens_BL, positions_BL), self._groups, self._vocab_size)

    def make_cache(self, number: int, num_texts: int, capacity: int) -> None:
        self._caches[number] = self._network.cache(num_texts, capacity)

    def keep(self, number: int, rows: Sequence[int]) -> None:
        self._caches[number].keep(rows)

    def continued(self, number: int, tokens_RL: Tensor, rows: slice, starts: Sequence[int]) -> Tensor | None:
        part = self._network.continued(self._caches[number], tokens_RL, rows, starts)
        return gathered(part, self._groups, self._vocab_size)

    def drop(self, numbers: Sequence[int]) -> None:
        """Free the memory of caches."""
        for number in numbers:
            del self._caches[number]


class ShardedNetwork(Network):
    """The network of all tensor-parallel ranks. Rank 0 uses it, and then calls `release`; the others call `serve`."""

    def __init__(self, stage: nn.Module, groups: Groups, vocab_size: int) -> None:
        self._shard, self._groups = Shard(stage, groups, vocab_size), groups
        self._numbers = count()
        self._unused: list[int] = []
        """Caches that rank 0 no longer refers to. They are freed with the next request."""

    def logits(self, tokens_BL: Tensor, positions_BL: Tensor | None = None) -> Tensor:
        found: Tensor = self._on_all("logits", tokens_BL.cpu(), positions_BL)
        return found

    def cache(self, num_texts: int, capacity: int) -> "ShardedCache":
        cache = ShardedCache(self, next(self._numbers))
        self._on_all("make_cache", cache.number, num_texts, capacity)
        weakref.finalize(cache, self._unused.append, cache.number)
        return cache

    def continued(self, cache: Cache, tokens_RL: Tensor, rows: slice, starts: Sequence[int]) -> Tensor:
        assert isinstance(cache, ShardedCache), "a cache of another network"
        found: Tensor = self._on_all("continued", cache.number, tokens_RL, rows, starts)
        return found

    def keep(self, number: int, rows: Sequence[int]) -> None:
        """Keep these texts of a cache only, in this order."""
        self._on_all("keep", number, rows)

    def serve(self) -> None:
        """Do what rank 0 asks for, until it calls `release`."""
        while (request := self._broadcast(None)) is not None:
            self._do(request)

    def release(self) -> None:
        """End `serve` on the other ranks."""
        self._broadcast(None)

    def _on_all(self, method: str, *args: Any) -> Any:
        """What a method of `Shard` returns on rank 0, which this is, when all ranks have called it."""
        assert self._groups.rank == 0, "the other ranks serve"
        # One by one, since the garbage collector may add to the list at any moment.
        unused = tuple(self._unused.pop() for _ in range(len(self._unused)))
        request = (method, args, unused)
        self._broadcast(request)
        return self._do(request)

    def _do(self, request: Request) -> Any:
        method, args, unused = request
        self._shard.drop(unused)
        return getattr(self._shard, method)(*args)

    def _broadcast(self, request: Request | None) -> Request | None:
        """What rank 0 passes, on all ranks."""
        found = [request]
        dist.broadcast_object_list(found, src=0, group=self._groups.cpu, device=torch.device("cpu"))
        return found[0]


class ShardedCache:
    """The keys and values of texts, of which each rank has those of its heads."""

    def __init__(self, network: ShardedNetwork, number: int) -> None:
        self._network, self.number = network, number

    def keep(self, rows: Sequence[int]) -> None:
        self._network.keep(self.number, list(rows))
