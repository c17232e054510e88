"""Files with the checksums of their content, which are checked whenever a part of them is read.

A file is followed by a trailer: the CRC-32 of each MiB, their number of bytes, and the CRC-32 of all that. Who does not
know of it reads the file as if it were not there: torch.distributed.checkpoint reads by offsets, and pickle up to an
end mark.
"""

import io
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from foretrain.progress import Advance
from foretrain.trainer.checkpoint.places import Place, read_range

BLOCK_BYTES = 2**20
"""Each of these has a checksum, and is read as a whole."""
_MAGIC = b"crc32/MB"
_FOOTER = struct.Struct("<QI8s")
"""Bytes of the content, CRC-32 of the checksums and of that number, and the magic."""
READS = 3
"""What differs from what was written is read so often before it counts as damaged."""

Result = TypeVar("Result")
Trailer = tuple[int, list[int]]
"""Bytes of the content of a file, and the checksums of its blocks."""


class DamagedError(ValueError):
    """A file is not what was written; the message names it, and what differs."""


def confirmed(read: Callable[[], Result]) -> Result:
    """What `read` returns. Only damage that it finds each time is raised: a server may send other bytes once."""
    for _ in range(READS - 1):
        with suppress(DamagedError):
            return read()
    return read()


class ChecksumWriter(io.RawIOBase):
    """A new file, to be written from its beginning to its end. `close` adds the trailer, and waits for the disk."""

    def __init__(self, path: Place) -> None:
        super().__init__()
        self._file = path.open("wb")
        self._sums = array("I")
        self._block_crc = self._block_bytes = self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The place, which cannot be changed: it is the end."""
        if (offset, whence) != (0, os.SEEK_CUR):
            raise io.UnsupportedOperation("a file with checksums is written from its beginning to its end")
        return self._num_bytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in _cuts(len(view), BLOCK_BYTES - self._block_bytes):
            part = view[start : start + BLOCK_BYTES - self._block_bytes]
            # Block by block, so that the processor's cache still has what the checksum is made of: 0.6 times the CPU.
            self._file.write(part)
            self._block_crc = zlib.crc32(part, self._block_crc)
            self._block_bytes += len(part)
            if self._block_bytes == BLOCK_BYTES:
                self._end_block()
        self._num_bytes += len(view)
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._block_bytes:
                self._end_block()
            self._file.write(trailer(self._num_bytes, self._sums))
            self._file.flush()
            with suppress(io.UnsupportedOperation):  # a file on a server has no number: close waits for the server
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            super().close()

    def _end_block(self) -> None:
        self._sums.append(self._block_crc)
        self._block_crc = self._block_bytes = 0


def _cuts(size: int, first: int) -> Generator[int]:
    """Where the pieces of `size` bytes start, of which the first has `first`, and the others are blocks."""
    if size:
        yield 0
        yield from range(first, size, BLOCK_BYTES)


def trailer(num_bytes: int, sums: "array[int]") -> bytes:
    """What follows the content of a file."""
    table = struct.pack(f"<{len(sums)}I", *sums) + num_bytes.to_bytes(8, "little")
    return table[:-8] + _FOOTER.pack(num_bytes, zlib.crc32(table), _MAGIC)


def read_trailer(path: Place) -> Trailer | None:
    """Bytes of the content of a file, and the checksums of its blocks; None if it has no trailer.

    Raises DamagedError if the trailer does not fit to itself or to the size of the file.
    """
    return confirmed(lambda: _read_trailer(path))


def _read_trailer(path: Place) -> Trailer | None:
    size = path.stat().st_size
    if size < _FOOTER.size:
        return None
    num_bytes, crc, magic = _FOOTER.unpack(read_range(path, size - _FOOTER.size, size))
    if magic != _MAGIC:
        return None
    num_blocks = -(-num_bytes // BLOCK_BYTES)
    if size != num_bytes + 4 * num_blocks + _FOOTER.size:
        raise DamagedError(f"{path} has {size:,} bytes, which do not fit to its checksums")
    table = bytes(read_range(path, num_bytes, size - _FOOTER.size))
    if zlib.crc32(table + num_bytes.to_bytes(8, "little")) != crc:
        raise DamagedError(f"{path}: its checksums are damaged")
    return num_bytes, list(struct.unpack(f"<{num_blocks}I", table))


def expected_trailer(path: Place) -> Trailer:
    """The trailer of a file that was written with one. Raises DamagedError if it has none or a damaged one."""
    return confirmed(lambda: _expected_trailer(path))


def _expected_trailer(path: Place) -> Trailer:
    found = _read_trailer(path)
    if found is None:
        raise DamagedError(f"{path} has lost its end, where its checksums are")
    return found


def read_blocks(path: Place, trailer: Trailer, first: int, stop: int) -> bytearray:
    """The content of the blocks from `first` up to `stop`, by one request.

    Raises DamagedError if it is damaged, or if the file has no such block.
    """
    if stop > len(trailer[1]):
        raise DamagedError(f"{path} ends after {trailer[0]:,} bytes, before what the checkpoint has in it")
    start, end = first * BLOCK_BYTES, min(stop * BLOCK_BYTES, trailer[0])
    content = read_range(path, start, end)
    content.extend(bytes(end - start - len(content)))  # what is missing is not what was written
    for number in range(first, stop):
        block = memoryview(content)[(number - first) * BLOCK_BYTES :][:BLOCK_BYTES]
        if zlib.crc32(block) != trailer[1][number]:
            block[:] = confirmed(partial(_read_block, path, trailer, number))
    return content


def _read_block(path: Place, trailer: Trailer, number: int) -> bytearray:
    first = number * BLOCK_BYTES
    stop = min(first + BLOCK_BYTES, trailer[0])
    block = read_range(path, first, stop)
    if len(block) != stop - first or zlib.crc32(block) != trailer[1][number]:
        raise DamagedError(f"{path}: bytes {first:,} to {stop:,} are not those that were written")
    return block


def read_checked(path: Place) -> bytes:
    """The content of a file, each byte read once. Raises DamagedError if it is not what was written."""
    trailer = expected_trailer(path)
    return bytes(read_blocks(path, trailer, 0, len(trailer[1])))


class ChecksumReader(io.RawIOBase):
    """The content of a file. A block that is not what was written is a DamagedError when a part of it is read."""

    def __init__(self, path: Place) -> None:
        super().__init__()
        self._path, (self._num_bytes, self._sums) = path, expected_trailer(path)
        self._file = path.open("rb", buffering=0)
        self._place, self._number, self._block = 0, -1, memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._num_bytes}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        target, done = memoryview(buffer).cast("B"), 0
        while done < len(target) and self._place < self._num_bytes:
            number, skipped = divmod(self._place, BLOCK_BYTES)
            if number != self._number:
                self._block, self._number = confirmed(partial(self._read_block, number)), number
            part = self._block[skipped : skipped + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)
            self._place += len(part)
        return done

    def close(self) -> None:
        self._file.close()
        super().close()

    def _read_block(self, number: int) -> memoryview:
        self._file.seek(number * BLOCK_BYTES)
        wanted = min(BLOCK_BYTES, self._num_bytes - number * BLOCK_BYTES)
        block = bytearray()
        while len(block) < wanted and (more := self._file.read(wanted - len(block))):
            block += more
        if len(block) != wanted or zlib.crc32(block) != self._sums[number]:
            first = number * BLOCK_BYTES
            self._file.close()
            self._file = self._path.open("rb", buffering=0)  # which holds none of these bytes
            raise DamagedError(f"{self._path}: bytes {first:,} to {first + wanted:,} are not those that were written")
        return memoryview(block)


def check_file(path: Place, advance: Advance = lambda num_bytes: None) -> None:
    """Raise DamagedError unless all of a file is what was written."""
    with ChecksumReader(path) as reader:
        buffer = bytearray(BLOCK_BYTES)
        while num_bytes := reader.readinto(buffer):
            advance(num_bytes)
