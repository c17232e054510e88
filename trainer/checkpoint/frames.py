"""What torch.save writes before and after the elements of a tensor: it depends on their number and shape alone."""

import io
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.serialization import skip_data
from torch.utils.serialization import config


@dataclass(frozen=True)
class Frame:
    """The bytes around the elements of a tensor, which follow each other without a gap in row-major order."""

    before: bytes
    after: bytes


def frame_of(tensor: Tensor) -> Frame:
    """The frame of a contiguous tensor with a storage of its own. Its elements are not read, so it may be a fake one.

    A frame is worth keeping: torch.save writes it in dozens of small pieces. It has no checksum of the elements, which
    torch does not compare when it reads.
    """
    file: Any = _Frame()
    with skip_data(materialize_fake_tensors=True), config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(tensor, file)
    assert file.skipped_bytes == tensor.nbytes, "the tensor shares its storage with others"
    return Frame(bytes(file.before), bytes(file.after))


class _Frame(io.RawIOBase):
    """A file that keeps what is written, before and after the bytes that are skipped once."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.skipped_bytes = bytearray(), bytearray(), 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            self.skipped_bytes += offset
        return len(self.before) + self.skipped_bytes + len(self.after)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        (self.after if self.skipped_bytes else self.before).extend(view)
        return len(view)
