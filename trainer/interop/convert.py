"""The elements of another library's tensors, made of the weights of a checkpoint, a part at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from foretrain.trainer.checkpoint.weights import StoredWeights
from foretrain.trainer.interop.tensors import Source, Target

PART_ELEMENTS = 2**19
"""Elements that are read and written at once: 2 MiB in fp32, and a few times that while they are checked."""


def parts_of(target: Target, weights: StoredWeights, dtype: torch.dtype) -> Iterator[Tensor]:
    """The elements of a tensor in row-major order and in `dtype`, in contiguous parts.

    All are read in parts, and the parts of a tensor that is transposed are kept. Raises ValueError, which names the
    tensor, if a weight is not finite, in the checkpoint or in `dtype`.
    """
    if not target.sources:
        yield torch.zeros(target.shape, dtype=dtype)
        return
    for part in _transposed(target, weights) if target.is_transposed else _in_order(target, weights):
        converted = part.to(dtype, memory_format=torch.contiguous_format).contiguous()
        if not converted.isfinite().all():
            raise ValueError(_not_finite(target, part, dtype))
        yield converted


def _in_order(target: Target, weights: StoredWeights) -> Iterator[Tensor]:
    for source in target.sources:
        for first, stop in _ranges(source, weights):
            yield _scaled(weights.rows(source.name, source.shape, first, stop), source)


def _transposed(target: Target, weights: StoredWeights) -> Iterator[Tensor]:
    columns, num_rows = target.shape
    stacked = torch.empty(num_rows, columns)
    row = 0
    for source in target.sources:
        for first, stop in _ranges(source, weights):
            rows = stacked[row + first : row + stop]
            weights.read_into(rows, source.name, source.shape, first)
            _scaled(rows, source)
        row += source.shape[0]
    yield from stacked.T.split(_rows_at_once(target.shape))


def _scaled(values: Tensor, source: Source) -> Tensor:
    return values if source.factor == 1.0 else values.mul_(source.factor)


def _ranges(source: Source, weights: StoredWeights) -> Iterator[tuple[int, int]]:
    """The first row of each part that is read at once, and the row after its last one."""
    num_rows = source.shape[0]
    step = _rows_at_once(source.shape) if weights.reads_parts else num_rows
    for first in range(0, num_rows, step):
        yield first, min(first + step, num_rows)


def _rows_at_once(shape: tuple[int, ...]) -> int:
    row_size = torch.Size(shape[1:]).numel()
    return max(1, PART_ELEMENTS // row_size)


def _not_finite(target: Target, part: Tensor, dtype: torch.dtype) -> str:
    if not part.isfinite().all():
        return f"the weights of {target.name} are not finite: the run has diverged; export an earlier checkpoint"
    largest = part.abs().max().item()
    return f"{target.name} has the weight {largest:g}, beyond the largest number of {dtype}: use --dtype bf16 or fp32"
