"""The parts of a state that one rank writes into a checkpoint or reads from one."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import Piece
from foretrain.trainer.checkpoint.boxes import Box, boxes_of
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.state import ModelState

WEIGHT = "weight"


@dataclass(frozen=True, eq=False)
class Part:
    """A box of one state of one parameter."""

    key: str
    """WEIGHT, or the name of a moment."""
    name: str
    """The parameter's name in the table."""
    shape: tuple[int, ...]
    """The parameter's global shape."""
    box: Box
    """The box, in the global parameter."""
    values: Tensor
    """Its elements, of the box' sizes: memory of the engine."""

    @property
    def index(self) -> MetadataIndex:
        """Its name for torch.distributed.checkpoint."""
        return MetadataIndex(f"{self.key}.{self.name}", self.box.offsets)

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """Its place for torch.distributed.checkpoint."""
        return ChunkStorageMetadata(torch.Size(self.box.offsets), torch.Size(self.box.sizes))


def parts_to_write(state: ModelState) -> list[Part]:
    """What this rank writes. Together all ranks write each element of each state once, and each about as much."""
    return [
        part
        for shard in state.owned
        if (piece := state.zero.piece(shard.tensor)) is not None
        for part in _parts(state, shard, piece, _share_of(state.groups, shard, piece))
    ]


def parts_to_read(state: ModelState) -> list[Part]:
    """What this rank reads: all that it keeps."""
    return [
        part
        for shard in state.shards
        if (piece := state.zero.piece(shard.tensor)) is not None
        for part in _parts(state, shard, piece, _held(shard, piece))
    ]


def part_of(shard: ParamShard) -> Part:
    """The weights of a complete shard, as its module computes with them."""
    in_shard = Box((0,) * len(shard.shape), shard.shape)
    box = in_shard if shard.tp_dim is None else in_shard.moved(shard.tp_dim, shard.span.start)
    return Part(WEIGHT, shard.param.name, tuple(shard.param.shape), box, shard.values.detach())


def _parts(state: ModelState, shard: ParamShard, piece: Piece, held: range) -> Iterator[Part]:
    """The elements `held` of a module's tensor, all of them in the shard and in the piece."""
    first_row = shard.rows.start * _row_size(shard)
    start, shape = held.start - piece.start, tuple(shard.param.shape)
    for box in boxes_of(shard.shape, held.start - first_row, held.stop - first_row):
        stop = start + box.num_elements
        in_param = box if shard.tp_dim is None else box.moved(shard.tp_dim, shard.span.start)
        for key in state.keys:
            yield Part(key, shard.param.name, shape, in_param, piece.states[key][start:stop].view(box.sizes))
        start = stop


def _held(shard: ParamShard, piece: Piece) -> range:
    """The elements of a module's tensor that are in the shard and in the piece."""
    row_size = _row_size(shard)
    start, stop = max(shard.rows.start * row_size, piece.start), min(shard.rows.stop * row_size, piece.stop)
    return range(start, max(start, stop))


def _share_of(groups: Groups, shard: ParamShard, piece: Piece) -> range:
    """What this rank writes of `_held`, which several ranks may have."""
    held, place, num_copies = _held(shard, piece), 0, 1
    if groups.layout.zero_stage == 0:
        place, num_copies = groups.replicas.rank(), groups.replicas.size()
    if shard.tp_dim is None:
        place, num_copies = place * groups.layout.tp + groups.at.tp, num_copies * groups.layout.tp
    return held[len(held) * place // num_copies : len(held) * (place + 1) // num_copies]


def _row_size(shard: ParamShard) -> int:
    """Elements of a row of the module's tensor, which has the shape of the shard but for the number of rows."""
    size = 1
    for length in shard.shape[1:]:
        size *= length
    return size
