"""This rank's part of the state of a model and its optimizer, by the names of the parameter table."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import Zero
from foretrain.trainer.model.shard import ParamShard


class ModelState:
    """This rank's shards of all parameters: their fp32 weights, and what the optimizer keeps of each.

    `shards` are all that the rank holds, and `owned` are those without the second copy of a tied embedding. `keys` are
    the names of the states: "weight", and the optimizer's. All ranks of a data-parallel group must read and write the
    same shards together, since ZeRO shards the states over them.
    """

    def __init__(self, groups: Groups, zero: Zero, shards: Sequence[ParamShard]) -> None:
        self.groups, self.zero, self._shards = groups, zero, shards
        self.num_updates = 0
        """Steps that the optimizer has done."""
        self.keys = ("weight", *zero.moments)

    @property
    def shards(self) -> Sequence[ParamShard]:
        """All shards, with the weights of the last update. Take them here again after each step."""
        self.zero.await_weights()
        return self._shards

    @property
    def owned(self) -> list[ParamShard]:
        """`shards` without the second copy of a tied embedding."""
        return [shard for shard in self.shards if not shard.is_copy]

    def items(
        self, key: str = "weight", shards: Sequence[ParamShard] | None = None
    ) -> Iterator[tuple[ParamShard, Tensor]]:
        """One state of each of `shards` (None: of all), on the rank's device, to be read before the next is taken.

        A module's tensor is gathered over dp once for all consecutive parameters that it holds.
        """
        tensor, full = None, torch.empty(0)
        for shard in self.shards if shards is None else shards:
            if tensor is not shard.tensor:
                tensor, full = shard.tensor, self.zero.get(shard.tensor, key).detach()
            yield shard, full[shard.rows]

    def get(self, name: str, key: str = "weight") -> Tensor:
        """One state of this rank's shard of the parameter `name`. Raises KeyError if the rank holds none of it."""
        for shard in self.shards:
            if shard.param.name == name:
                return next(self.items(key, [shard]))[1]
        raise KeyError(name)

    def set(self, key: str, values: Mapping[str, Tensor]) -> None:
        """Overwrite one state of every parameter that the rank holds, by name; rows that pad a tensor become 0."""
        by_tensor: dict[Tensor, list[ParamShard]] = {}
        for shard in self.shards:
            by_tensor.setdefault(shard.tensor, []).append(shard)
        for shards in by_tensor.values():
            tensor = shards[0].tensor
            full = torch.zeros(getattr(tensor, "ds_shape", tensor.shape))  # ZeRO-3 empties parameters between uses
            for shard in shards:
                full[shard.rows] = values[shard.param.name]
            self.zero.set(tensor, key, full.to(self.groups.device))

    def set_step(self, step: int) -> None:
        """Set the number of steps that the optimizer has done, for its bias correction."""
        self.num_updates = step
        self.zero.set_step(step)
