"""Reading what a rank needs of the files of a checkpoint: each block that it needs once, and checked."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES, expected_trailer, read_blocks
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.reading.stored import Wanted

RUN_BLOCKS = 8
"""Most blocks that are read by one request, and are in memory at once."""


def read_wanted(folder: Place, wanted: Mapping[str, Sequence[Wanted]]) -> None:
    """Read what is wanted of each file of a folder. Raises DamagedError if it is not what was written."""
    for file, of_file in wanted.items():
        blocks = _by_block(of_file)
        trailer = expected_trailer(folder / file)
        for first, stop in _runs(blocks):
            content = torch.frombuffer(read_blocks(folder / file, trailer, first, stop), dtype=torch.uint8)
            for each in dict.fromkeys(each for number in range(first, stop) for each in blocks[number]):
                each.take(first * BLOCK_BYTES, content)


def _by_block(wanted: Sequence[Wanted]) -> dict[int, list[Wanted]]:
    """What is wanted of each block of a file."""
    found: dict[int, list[Wanted]] = {}
    for each in wanted:
        first, stop = each.span
        for number in range(first // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            found.setdefault(number, []).append(each)
    return found


def _runs(blocks: Mapping[int, object]) -> Iterator[tuple[int, int]]:
    """The blocks as runs of neighbours: the first of each, and the one after its last."""
    first = stop = -1
    for number in sorted(blocks):
        if number != stop or stop - first == RUN_BLOCKS:
            if stop > first:
                yield first, stop
            first = number
        stop = number + 1
    if stop > first:
        yield first, stop
