"""Writing the files of a model in the format safetensors, a part of a tensor at a time.

The functions of the library `safetensors` take all tensors of a file at once, which needs memory for the complete file.
The files are those that the library would write, byte for byte. The format: 8 bytes with the length of the header, the
header as JSON, and the elements of the tensors, one after the other (https://github.com/huggingface/safetensors).
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from foretrain.progress import Advance
from foretrain.trainer.interop.tensors import Target

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The types of elements that a model may have in a file, by the names that the settings of a run use."""
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8


def write_file(
    path: Path,
    targets: Iterable[Target],
    dtype: torch.dtype,
    parts_of: Callable[[Target], Iterator[Tensor]],
    advance: Advance,
) -> None:
    """Write a file with `targets`, and wait until the disk has it.

    `parts_of` gives the elements of a target in `dtype`, in contiguous tensors, one after the other. `advance` counts
    their bytes.
    """
    ordered = sorted(targets, key=lambda target: target.name)  # as the library does
    with path.open("wb") as file:
        file.write(header(ordered, dtype))
        for target in ordered:
            num_elements = 0
            for part in parts_of(target):
                assert part.dtype == dtype and part.is_contiguous()
                file.write(part.view(-1).view(torch.uint8).numpy().data)
                num_elements += part.numel()
                advance(part.nbytes)
            assert num_elements == target.num_elements, f"{target.name} is not complete"
        file.flush()
        os.fsync(file.fileno())


def header(targets: Sequence[Target], dtype: torch.dtype) -> bytes:
    """What a file with these tensors, in this order, begins with."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for target in targets:
        stop = start + target.num_elements * dtype.itemsize
        entries[target.name] = {
            "dtype": _NAMES[dtype],
            "shape": list(target.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
