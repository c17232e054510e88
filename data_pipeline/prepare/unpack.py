"""Decompression of files and members in gzip or zstd, with an error if they are cut short."""

import gzip
import io
import zlib

import zstandard

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError

COMPRESSIONS = ("", ".gz", ".zst")
UNPACK_ERRORS = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading raises if the compressed bytes are damaged."""

READ_BYTES = 1 << 17
FEED_BYTES = 1 << 11
"""Compressed bytes that zstandard gets at once."""


def without_compression(name: str) -> str:
    """Return a file's name without the suffix of its compression."""
    return name.removesuffix(".gz").removesuffix(".zst")


def unpack(name: str, raw: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return the decompressed bytes of an open file, whose name says its compression."""
    if name.endswith(".gz"):
        return io.BufferedReader(_Limited(gzip.open(raw, "rb"), raw), READ_BYTES)
    if name.endswith(".zst"):
        return io.BufferedReader(_Limited(_ZstdReader(raw), raw), READ_BYTES)
    return raw


def read_document(stream: io.BufferedIOBase, place: str) -> bytes:
    """Return the rest of a stream. Raises CorpusError, which names the place, if it is more than one may have."""
    data = bytearray()
    while chunk := stream.read(READ_BYTES):  # a read of the limit would take its memory at once
        data += chunk
        if len(data) > limits.DOCUMENT_BYTES:
            raise too_large(place)
    return bytes(data)


def too_large(place: str) -> CorpusError:
    """Return the error for a document that is larger than one may be."""
    return CorpusError(f"{place} has more than {limits.DOCUMENT_BYTES:,} bytes of text or tokens: split it")


class _Limited(io.RawIOBase):
    """Decompressed bytes, with an error once they are too many for the compressed bytes that they come from."""

    def __init__(self, unpacked: io.BufferedIOBase | io.RawIOBase, packed: io.BufferedIOBase) -> None:
        self._unpacked, self._packed = unpacked, packed
        self._num_bytes, self._start = 0, packed.tell()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        num_bytes = self._unpacked.readinto(buffer) or 0
        self._num_bytes += num_bytes
        num_packed = self._packed.tell() - self._start
        if self._num_bytes > max(limits.UNPACKED_FREE_BYTES, limits.UNPACKED_RATIO * num_packed):
            raise OSError(f"{num_packed:,} bytes become more than {limits.UNPACKED_RATIO:,} times as many")
        return num_bytes


class _ZstdReader(io.RawIOBase):
    """All frames of a zstd file. zstandard's own reader ends without an error if the file is cut short."""

    def __init__(self, raw: io.BufferedIOBase) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._unpacked:
            self._packed = self._packed or self._raw.read(READ_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            # Four bytes may become 128 kB, and zstandard returns all that its input becomes.
            piece, self._packed = self._packed[:FEED_BYTES], self._packed[FEED_BYTES:]
            self._unpacked = memoryview(self._frame.decompress(piece))
            if self._frame.eof:
                self._packed = self._frame.unused_data + self._packed
                self._frame = None
        num_bytes = min(len(buffer), len(self._unpacked))
        buffer[:num_bytes] = self._unpacked[:num_bytes]
        self._unpacked = self._unpacked[num_bytes:]
        return num_bytes
