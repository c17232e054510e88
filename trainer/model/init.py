"""Initial weights as a function of (seed, name, global index): every layout starts from the same model, bitwise.

A parameter is drawn in tiles: blocks of rows, each split into blocks of TILE_COLUMNS columns. Each tile has its own
generator, seeded by (seed, name, tile), so a rank draws only the tiles that its part overlaps, one at a time.
"""

import math
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import torch
from torch import Tensor, nn

from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.model.spec import Param

TILE_COLUMNS = 1024
TILE_ROWS = 64
"""Rows of a tile of a matrix that is wider than a tile."""
BLOCK_BYTES = 16 << 20
"""Size in fp32 of a tile of a narrower matrix, which is not split along its columns."""


class InitialWeights:
    """The initial values of the tensors of `shards`, which depend on (seed, name, global index), or 0 without a seed.

    Padding rows are 0.
    """

    def __init__(self, shards: Iterable[ParamShard], seed: int | None) -> None:
        self._seed = seed
        self._shards: dict[Tensor, list[ParamShard]] = {}
        for shard in shards:
            self._shards.setdefault(shard.tensor, []).append(shard)

    @torch.no_grad()
    def fill(self, tensor: nn.Parameter, out: Tensor, start: int = 0) -> None:
        """Write elements `start` to `start + len(out)` of a tensor, flattened, into `out` (one-dimensional)."""
        out.zero_()
        if self._seed is None:
            return
        for shard in self._shards.get(tensor, ()):
            width = math.prod(shard.shape[1:])
            top = shard.rows.start * width
            first, last = max(start, top), min(start + len(out), shard.rows.stop * width)
            if first < last:
                self._fill_shard(out[first - start : last - start], shard, first - top, width, self._seed)

    @staticmethod
    def _fill_shard(out: Tensor, shard: ParamShard, start: int, width: int, seed: int) -> None:
        """Fill `out` with elements `start`, ... of a shard whose rows have `width` elements."""
        stop = start + len(out)
        rows = slice(start // width, -(-stop // width))
        size = (rows.stop - rows.start) * width
        full = out if size == len(out) else torch.empty(size, dtype=out.dtype, device=out.device)
        by_columns = shard.tp_dim == 1
        offset = 0 if by_columns else shard.span.start
        rows_of_param = slice(rows.start + offset, rows.stop + offset)
        fill(full.view(-1, *shard.shape[1:]), shard.param, seed, rows_of_param, shard.span if by_columns else None)
        if full is not out:
            out.copy_(full[start - rows.start * width :][: len(out)])


def fill(out: Tensor, param: Param, seed: int, rows: slice, columns: slice | None = None) -> None:
    """Write rows `rows` (and columns `columns` of a matrix; None: all) of the initial `param` into `out`.

    `out` has the shape of the slice, any dtype and device. The draw is fp32 on the CPU, so that all devices start from
    the same values.
    """
    if param.std == 0:
        out.fill_(param.fill)
        return
    num_rows, width = param.shape[0], param.num_elements // param.shape[0]
    columns = columns or slice(0, width)
    out = out.view(rows.stop - rows.start, columns.stop - columns.start)
    tile_rows = TILE_ROWS if width > TILE_COLUMNS else max(1, BLOCK_BYTES // (4 * width))
    for block, block_rows in _overlapping(rows, tile_rows, num_rows):
        for tile, tile_columns in _overlapping(columns, TILE_COLUMNS, width):
            size = block_rows.stop - block_rows.start, tile_columns.stop - tile_columns.start
            draw = torch.randn(*size, generator=_generator(seed, param.name, block, tile)) * param.std
            in_out, in_draw = zip(_common(rows, block_rows), _common(columns, tile_columns), strict=True)
            out[in_out].copy_(draw[in_draw])


def _overlapping(part: slice, step: int, size: int) -> Iterator[tuple[int, slice]]:
    """Number and place of the blocks of `step` indices of `size` that `part` overlaps."""
    for block in range(part.start // step, -(-part.stop // step)):
        yield block, slice(block * step, min((block + 1) * step, size))


def _common(a: slice, b: slice) -> tuple[slice, slice]:
    """What two slices share, as a part of each."""
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return slice(start - a.start, stop - a.start), slice(start - b.start, stop - b.start)


def _generator(seed: int, name: str, block: int, tile: int) -> torch.Generator:
    # The first tile's has no number, so that matrices of few columns keep the values of earlier versions.
    place = f"{block}/{tile}" if tile else f"{block}"
    digest = blake2b(f"{seed}/{name}/{place}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
