"""Decompression of files and members in gzip or zstd, with an error if they are cut short."""

import gzip
import io
import zlib

import zstandard

COMPRESSIONS = ("", ".gz", ".zst")
UNPACK_ERRORS = (OSError, EOFError, zlib.error, zstandard.ZstdError)
"""What reading raises if the compressed bytes are damaged."""

READ_BYTES = 1 << 17


def without_compression(name: str) -> str:
    """Return a file's name without the suffix of its compression."""
    return name.removesuffix(".gz").removesuffix(".zst")


def unpack(name: str, raw: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return the decompressed bytes of an open file, whose name says its compression."""
    if name.endswith(".gz"):
        return gzip.open(raw, "rb")
    if name.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(raw), READ_BYTES)
    return raw


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
            self._unpacked = memoryview(self._frame.decompress(self._packed))
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        num_bytes = min(len(buffer), len(self._unpacked))
        buffer[:num_bytes] = self._unpacked[:num_bytes]
        self._unpacked = self._unpacked[num_bytes:]
        return num_bytes
