"""The check that ranks agree, to the last bit, in what must be equal on them; if not, it names the ranks that differ.

Every rank claims a value for each key, and ranks that claim the same key must claim the same value. The claim about a
parameter is a checksum of its bits. A check costs a small reduction for each group of ranks. Only if claims differ are
they gathered, to find the ranks that differ from the majority.
"""

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.configs.data import CacheConfig
from foretrain.configs.load import config_hash
from foretrain.configs.schema import Config
from foretrain.trainer.consistency.checksum import checksum
from foretrain.trainer.consistency.findings import Claims, findings, listed
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.state import ModelState

_LEAST = -(1 << 63)


class InconsistentRanksError(RuntimeError):
    """Ranks differ in what must be equal. The message, the same on every rank, names the ranks and what differs."""


class Consistency:
    """Compares this rank's step, stream position, learning rates, settings and parameters with those of other ranks.

    Three things must be equal to the last bit: every parameter on all replicas (dp x cp); parameters that tensor
    parallelism does not shard on all tp ranks; and the two copies of a tied embedding at the ends of a pipeline. ZeRO-3
    shards parameters over the replicas, so that no two of them hold the same numbers; then only the shards of
    parameters that tp does not shard are compared, over tp.

    `settings` are the claims about the run itself, and `compared_shards` the parameters that are compared, by key.
    """

    def __init__(self, state: ModelState, config: Config, data_fingerprint: str) -> None:
        """Every rank must make one."""
        groups = self._groups = state.groups
        self._zero = state.zero
        self._run_dir = config.run_dir
        self._sound_step: int | None = None
        self.settings = {"config hash": config_hash(shared_settings(config)), "data fingerprint": data_fingerprint}
        # Ranks of different pipeline stages may have different optimizer groups.
        self._value_keys = sorted(set().union(*_gathered(list(self._values(0, 0)))))

        self._is_sharded_by_zero = groups.layout.zero_stage == 3
        shards = {self._key(shard): shard for shard in state.shards}
        over_replicas = [] if self._is_sharded_by_zero else list(shards)
        over_tp = [key for key, shard in shards.items() if shard.tp_dim is None]
        over_ends = [key for key, shard in shards.items() if shard.param.is_token_embedding]
        if not config.model.tie_embeddings:
            over_ends = []
        compared = [(groups.replicas, over_replicas), (groups.tp, over_tp), (groups.embedding, over_ends)]
        self._compared = [(group, keys) for group, keys in compared if group and group.size() > 1 and keys]
        self.compared_shards = {key: shards[key] for _, keys in self._compared for key in keys}

    def check(self, step: int, samples_consumed: int) -> None:
        """Raise InconsistentRanksError, on every rank, if any ranks differ after `step` steps. Every rank calls it."""
        self._zero.await_weights()
        values = self._values(step, samples_consumed)
        rank = self._groups.replicas.rank()
        checksums = {
            key: checksum(local_bits(shard, rank)).to(self._groups.device)
            for key, shard in self.compared_shards.items()
        }
        suspects = self._differing_values(values)
        for group, keys in self._compared:
            sums = torch.stack([checksums[key] for key in keys])
            differs = _differs(sums, ~sums, group)
            suspects += [key for key, is_suspect in zip(keys, differs, strict=True) if is_suspect]
        num_suspects = torch.tensor(len(suspects), device=self._groups.device)
        dist.all_reduce(num_suspects, op=dist.ReduceOp.MAX)
        if num_suspects.item():
            claims: Claims = {**values, **{key: int(value) for key, value in checksums.items()}}
            raise InconsistentRanksError(self._explain(step, suspects, claims))
        self._sound_step = step

    def _values(self, step: int, samples_consumed: int) -> dict[str, str]:
        """Claims on which all ranks must agree."""
        rates = {f"learning rate of {group['name']}": repr(group["lr"]) for group in self._zero.optimizer.param_groups}
        return {"step": str(step), "samples consumed": str(samples_consumed), **rates, **self.settings}

    def _key(self, shard: ParamShard) -> str:
        """A key that is equal on ranks that must hold the same numbers, whatever their place in the pipeline."""
        groups = self._groups
        places = [f"tp={groups.at.tp}"] if shard.tp_dim is not None else []
        places += [f"shard={groups.replicas.rank()}"] if self._is_sharded_by_zero else []
        return shard.param.name + (f"[{', '.join(places)}]" if places else "")

    def _differing_values(self, values: Mapping[str, str]) -> list[str]:
        words = [_word(values[key]) if key in values else None for key in self._value_keys]
        highs = torch.tensor([_LEAST if word is None else word for word in words], device=self._groups.device)
        lows = torch.tensor([_LEAST if word is None else ~word for word in words], device=self._groups.device)
        differs = _differs(highs, lows, None)
        return [key for key, is_suspect in zip(self._value_keys, differs, strict=True) if is_suspect]

    def _explain(self, step: int, suspects: list[str], claims: Claims) -> str:
        keys = set().union(*_gathered(suspects))
        everyones = _gathered((socket.gethostname(), {key: claims[key] for key in claims if key in keys}))
        nodes = [node for node, _ in everyones]
        lines = "\n  ".join(listed(findings([claim for _, claim in everyones], nodes)))
        if self._sound_step is None:
            sound = "They differ from the start of this process: no step of it was right."
        else:
            sound = (
                f"They were equal after step {self._sound_step}: resume from a checkpoint of that step or an earlier "
                f"one, and remove later ones from {self._run_dir}/checkpoints."
            )
        return (
            f"after step {step}, ranks differ in what must be equal:\n  {lines}\n{sound} Suspect the hardware of the "
            "node of a rank that alone differs (exclude the node), a nondeterministic kernel, or, if ranks of many "
            "nodes differ, a fault of parallelism: `foretrain verify CONFIG` compares this layout with one process."
        )


def shared_settings(config: Config) -> Config:
    """The settings on which ranks must agree. Paths of data may differ by node, since fingerprints are compared."""
    sources = {name: replace(source, path="-") for name, source in config.data.sources.items()}
    data = replace(config.data, path="", sources=sources, prefetch_batches=0, cache=CacheConfig())
    return replace(config, data=data)


def local_bits(shard: ParamShard, replica: int) -> Tensor:
    """The elements that this rank holds: its rows of the module's tensor, or under ZeRO-3 the replica's part of it."""
    part = getattr(shard.tensor, "ds_tensor", None)
    if part is None:
        return shard.values
    num_held = shard.tensor.ds_numel - replica * part.numel()  # type: ignore[attr-defined]
    return part.flatten()[: max(0, num_held)]  # what follows pads the last parts, and DeepSpeed leaves it unset


def _differs(values: Tensor, inverted: Tensor, group: dist.ProcessGroup | None) -> list[bool]:
    """Whether each of `values` differs between ranks of `group` (None: all ranks).

    `inverted` is ~values. A rank that makes no claim about a value passes _LEAST for both.
    """
    # ~ reverses the order, so one reduction gives the greatest and the least value, whatever the size of the group.
    bounds = torch.cat([values, inverted])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=group)
    greatest, inverted_least = bounds.chunk(2)
    return (greatest != ~inverted_least).tolist()


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def _gathered(mine: Any) -> list[Any]:
    """The objects of all ranks, in the order of ranks."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
