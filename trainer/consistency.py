"""In-run checks: what must be equal on several ranks is equal, to the last bit, or the run ends and names the ranks.

Every rank makes claims, a value for each key, and ranks that claim the same key must claim the same value. Parameters
are claimed by a checksum of their bits. Whether claims agree costs a small reduction for each group of ranks; only
where they do not are they gathered, and the ranks that differ from the majority found.
"""

import hashlib
import socket
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.configs.data import CacheConfig
from foretrain.configs.load import config_hash
from foretrain.configs.schema import Config
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.state import ModelState

Claims = Mapping[str, int | str]
"""Values in words, and checksums of parameters as integers."""

_INT_OF_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_CHUNK = 1 << 18
"""Elements of a tensor taken at once: three int64 temporaries of them are 6 MiB, which caches hold."""
_CURVATURE = 4 * 0x1E3779B97F4A7C15
_LEAST = -(1 << 63)
_MOST_LISTED = 8
"""Ranks, and keys of one rank, that a message lists."""


class InconsistentRanksError(RuntimeError):
    """Ranks differ in what must be equal; the message, the same on every rank, names them and what differs."""


class Consistency:
    """Compares this rank's step, stream position, learning rates, settings and parameters with other ranks'.

    Equal to the last bit must be: every parameter, over the replicas (dp x cp); what tp does not cut, over tp; and the
    two copies of a tied embedding at the ends of a pipeline. ZeRO-3 shards parameters over the replicas, so that no two
    of them hold the same numbers: there, only the shards of what tp does not cut are compared, over tp.
    """

    def __init__(self, state: ModelState, config: Config, data_fingerprint: str) -> None:
        """Every rank calls it."""
        groups = self._groups = state.groups
        self._optimizer = state.zero.optimizer
        self._run_dir = config.run_dir
        self._sound_step: int | None = None
        self._settings = {"config hash": config_hash(shared_settings(config)), "data fingerprint": data_fingerprint}
        # Ranks of different pipeline stages may have different optimizer groups.
        self._value_keys = sorted(set().union(*_gathered(list(self._values(0, 0)))))

        self._is_cut_by_zero = groups.layout.zero_stage == 3
        shards = {self._key(shard): shard for shard in state.shards}
        over_replicas = [] if self._is_cut_by_zero else list(shards)
        over_tp = [key for key, shard in shards.items() if shard.tp_dim is None]
        over_ends = [key for key, shard in shards.items() if shard.param.is_token_embedding]
        if not config.model.tie_embeddings:
            over_ends = []
        compared = [(groups.replicas, over_replicas), (groups.tp, over_tp), (groups.embedding, over_ends)]
        self._compared = [(group, keys) for group, keys in compared if group and group.size() > 1 and keys]
        self._params = {key: shards[key] for _, keys in self._compared for key in keys}

    def check(self, step: int, samples_consumed: int) -> None:
        """Raise InconsistentRanksError, on every rank, if any ranks differ after `step` steps. Every rank calls it."""
        values = self._values(step, samples_consumed)
        rank = self._groups.replicas.rank()
        checksums = {key: checksum(_bits(shard, rank)).to(self._groups.device) for key, shard in self._params.items()}
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
        """Claims on which the whole world must agree."""
        rates = {f"learning rate of {group['name']}": repr(group["lr"]) for group in self._optimizer.param_groups}
        return {"step": str(step), "samples consumed": str(samples_consumed), **rates, **self._settings}

    def _key(self, shard: ParamShard) -> str:
        """The same on ranks that must hold the same numbers, whatever their place in the pipeline."""
        groups = self._groups
        places = [f"tp={groups.at.tp}"] if shard.tp_dim is not None else []
        places += [f"shard={groups.replicas.rank()}"] if self._is_cut_by_zero else []
        return shard.param.name + (f"[{', '.join(places)}]" if places else "")

    def _differing_values(self, values: Mapping[str, str]) -> list[str]:
        words = [_word(values[key]) if key in values else None for key in self._value_keys]
        highs = torch.tensor([_LEAST if word is None else word for word in words], device=self._groups.device)
        lows = torch.tensor([_LEAST if word is None else ~word for word in words], device=self._groups.device)
        differs = _differs(highs, lows, None)
        return [key for key, is_suspect in zip(self._value_keys, differs, strict=True) if is_suspect]

    def _explain(self, step: int, suspects: list[str], claims: Claims) -> str:
        keys = set().union(*_gathered(suspects))
        told = _gathered((socket.gethostname(), {key: claims[key] for key in claims if key in keys}))
        nodes = [node for node, _ in told]
        lines = "\n  ".join(_listed(findings([claim for _, claim in told], nodes)))
        if self._sound_step is None:
            sound = "They differ from the start of this process: no step of it was right."
        else:
            sound = (
                f"They were equal after step {self._sound_step}: resume from a checkpoint of that step or an earlier "
                f"one, and remove later ones from {self._run_dir}/checkpoints."
            )
        return (
            f"after step {step}, ranks differ in what must be equal:\n  {lines}\n{sound} Suspect the hardware of the "
            "node of a rank that stands alone (leave the node out), a nondeterministic kernel, or, where ranks of many "
            "nodes differ, a fault of parallelism: `foretrain verify CONFIG` compares this layout with one process."
        )


def shared_settings(config: Config) -> Config:
    """What ranks must agree on. A node may read its own copies of the data, whose fingerprints are compared."""
    sources = {name: replace(source, path="-") for name, source in config.data.sources.items()}
    data = replace(config.data, path="", sources=sources, prefetch_batches=0, cache=CacheConfig())
    return replace(config, data=data)


def checksum(tensor: Tensor) -> Tensor:
    """An int64 scalar on the tensor's device, of its bits in order; any dtype, fewer than 2^32 elements.

    The sum of bits_p * w_p modulo 2^64 with w_p = 1 + 2 p + 4 a p^2. As w_p is odd, any change of one element changes
    it. As w_p - w_q = 2 (p - q) (1 + 2 a (p + q)) has at most 32 factors of two, so does any swap of two elements (of
    up to 32 bits; wider ones are taken in halves). Other changes cancel by rare chance only.
    """
    flat = tensor.detach().reshape(-1)
    flat = flat.view(_INT_OF_BYTES[min(flat.element_size(), 4)])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), _CHUNK):
        bits = flat[start : start + _CHUNK]
        position = torch.arange(start, start + len(bits), device=flat.device)
        weight = (position * _CURVATURE).add_(2).mul_(position).add_(1)
        total += weight.mul_(bits).sum()
    return total


def findings(claims: Sequence[Claims], nodes: Sequence[str]) -> list[str]:
    """A line for each rank that differs from most of those that claim the same, and for each set without a majority.

    `claims` and `nodes` are in the order of ranks.
    """
    alone: dict[int, list[str]] = defaultdict(list)
    divided: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for claim in claims for key in claim):
        told = {rank: claim[key] for rank, claim in enumerate(claims) if key in claim}
        (usual, votes), *others = Counter(told.values()).most_common()
        if not others:
            continue
        if 2 * votes <= len(told):
            words = sorted({value for value in told.values() if isinstance(value, str)})
            divided[tuple(told)].append(f"{key} ({', '.join(_listed(words))})" if words else key)
            continue
        for rank, value in told.items():
            if value != usual:
                alone[rank].append(f"{key} = {value} (most have {usual})" if isinstance(value, str) else key)
    lines = [f"rank {rank} (node {nodes[rank]}): {', '.join(_listed(alone[rank]))}" for rank in sorted(alone)]
    for ranks, keys in divided.items():
        names = ", ".join(_listed([str(rank) for rank in ranks]))
        lines.append(f"ranks {names}, with no majority: {', '.join(_listed(keys))}")
    return lines


def _bits(shard: ParamShard, replica: int) -> Tensor:
    """The elements that this rank holds: its rows of the module's tensor, or under ZeRO-3 the replica's part of it."""
    part = getattr(shard.tensor, "ds_tensor", None)
    if part is None:
        return shard.values
    num_held = shard.tensor.ds_numel - replica * part.numel()  # type: ignore[attr-defined]
    return part.flatten()[: max(0, num_held)]  # what follows pads the last parts, and DeepSpeed leaves it unset


def _differs(values: Tensor, inverted: Tensor, group: dist.ProcessGroup | None) -> list[bool]:
    """Which of `values` are not the same on every rank of `group` (None: the world).

    `inverted` is ~values; a rank that has no part in one of them gives _LEAST for both.
    """
    # ~ reverses the order, so that one reduction gives the greatest and the least, whatever the size of the group.
    bounds = torch.cat([values, inverted])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=group)
    greatest, inverted_least = bounds.chunk(2)
    return (greatest != ~inverted_least).tolist()


def _word(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def _gathered(mine: Any) -> list[Any]:
    """What every rank of the world gave, in the order of ranks."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def _listed(items: Sequence[str]) -> list[str]:
    left_out = len(items) - _MOST_LISTED
    return [*items[:_MOST_LISTED], f"and {left_out} more"] if left_out > 0 else list(items)
