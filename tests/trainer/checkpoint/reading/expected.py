"""What must be read of a checkpoint, found element by element, without the code that reads."""

import io
import struct
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES, read_trailer
from foretrain.trainer.checkpoint.manifest import METADATA
from tests.trainer.checkpoint.reading.counted import Need, Read, slices

MOST_BLOCKS = 1000
"""More than a file has."""
Counts = dict[str, NDArray[np.int8]]
"""How often each byte of each file is read."""


def counts_of(checkpoint: Path, reads: Iterable[Read]) -> Counts:
    """How often each byte was read."""
    found = nothing(checkpoint)
    for read in reads:
        found[read.file][read.first : read.stop] += 1
    return found


def counts_of_needed(checkpoint: Path, needs: Sequence[Need]) -> Counts:
    """What must be read: the blocks with what is needed, their checksums, and the metadata."""
    found = nothing(checkpoint)
    found[METADATA][:] = 1
    files, blocks_of = file_names(checkpoint), blocks_of_elements(checkpoint)
    needed = {int(each) for name, box in needs for ends in blocks_of[name] for each in np.unique(ends[slices(box)])}
    for file, block in (divmod(each, MOST_BLOCKS) for each in needed):
        trailer = read_trailer(checkpoint / files[file])
        assert trailer is not None
        found[files[file]][block * BLOCK_BYTES : min((block + 1) * BLOCK_BYTES, trailer[0])] = 1
        found[files[file]][trailer[0] :] = 1
    return found


@cache
def blocks_of_elements(checkpoint: Path) -> dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The blocks in which each element of each tensor begins and ends: the number of the file and of its block."""
    metadata, files = FileSystemReader(checkpoint).read_metadata(), file_names(checkpoint)
    content = [(checkpoint / file).read_bytes() for file in files]
    found = {}
    for name, stored in metadata.state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        begin, end = np.full(stored.size, -1, np.int32), np.full(stored.size, -1, np.int32)
        for chunk in stored.chunks:
            at = metadata.storage_data[MetadataIndex(name, chunk.offsets)]
            number = files.index(at.relative_path)
            first = at.offset + place_in_zip(content[number][at.offset : at.offset + at.length])
            bytes_of = first + 4 * np.arange(chunk.sizes.numel()).reshape(chunk.sizes)
            box = slices(Box(tuple(chunk.offsets), tuple(chunk.sizes)))
            begin[box] = number * MOST_BLOCKS + bytes_of // BLOCK_BYTES
            end[box] = number * MOST_BLOCKS + (bytes_of + 3) // BLOCK_BYTES
        found[name] = begin, end
    return found


def place_in_zip(content: bytes) -> int:
    """Where the elements are in what torch.save has written, as the list at the end of the zip file says it."""
    header = zipfile.ZipFile(io.BytesIO(content)).getinfo("archive/data/0").header_offset
    return header + 30 + sum(struct.unpack_from("<HH", content, header + 26))


def file_names(checkpoint: Path) -> list[str]:
    """The files with tensors, by name."""
    return sorted(path.name for path in checkpoint.glob("*.distcp"))


def nothing(checkpoint: Path) -> Counts:
    """No byte of any file is read."""
    return {path.name: np.zeros(path.stat().st_size, np.int8) for path in checkpoint.iterdir()}


def differences(found: Counts, expected: Counts) -> list[str]:
    """For each file that is not read as it must be, how many bytes are read too often and too seldom."""
    return [
        f"{file}: {np.sum(times > expected[file]):,} too often, {np.sum(times < expected[file]):,} too seldom"
        for file, times in found.items()
        if not np.array_equal(times, expected[file])
    ]
