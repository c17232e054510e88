"""Initial weights as a function of (seed, name, global index): every layout starts from the same model, bitwise.

A parameter is drawn in blocks of rows. Each block has its own generator, seeded by (seed, name, block), so a rank draws
only the blocks that its shard overlaps, and never holds more than BLOCK_BYTES of draws at a time.
"""

from hashlib import blake2b

import torch
from torch import Tensor

from foretrain.trainer.model.spec import Param

BLOCK_BYTES = 16 << 20


def fill(out: Tensor, param: Param, seed: int, rows: slice, columns: slice | None = None) -> None:
    """Write rows `rows` (and columns `columns` of a matrix; None: all) of the initial `param` into `out`.

    `out` has the shape of the slice, any dtype and device. The draw is fp32 on the CPU, so that all devices start from
    the same values.
    """
    if param.std == 0:
        out.fill_(param.fill)
        return
    num_rows, width = param.shape[0], param.num_elements // param.shape[0]
    rows_per_block = max(1, BLOCK_BYTES // (4 * width))
    for block in range(rows.start // rows_per_block, -(-rows.stop // rows_per_block)):
        first = block * rows_per_block
        last = min(first + rows_per_block, num_rows)
        draw = torch.randn(last - first, width, generator=_generator(seed, param.name, block)) * param.std
        start, stop = max(first, rows.start), min(last, rows.stop)
        part = draw[start - first : stop - first]
        out[start - rows.start : stop - rows.start].copy_(part if columns is None else part[:, columns])


def _generator(seed: int, name: str, block: int) -> torch.Generator:
    digest = blake2b(f"{seed}/{name}/{block}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
