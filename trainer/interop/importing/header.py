"""The header of a safetensors file that others have written: which tensors it has, and where. No torch.

As strict as the library `safetensors`, which the project needs for tests only, and in some points more: names are
printable ASCII, no name is there twice, and an entry has no other keys. The elements of the tensors fill the file
without a gap and do not overlap (https://github.com/huggingface/safetensors).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from foretrain import limits
from foretrain.files import naming
from foretrain.trainer.interop.importing.errors import AGAIN, UnfitError, shown

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of an element, by the name of its type in a header."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_MAX_DIMS = 16
_MAX_NUMBER = 1 << 62


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    dtype: str
    """The name of its type, a key of ITEM_BYTES."""
    shape: tuple[int, ...]
    start: int
    """The first byte of its elements in the file. They are in row-major order, and little-endian."""
    stop: int
    """The byte after its last element."""


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by their names. Raises UnfitError if the file is not a complete safetensors file."""
    with naming(path), path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        prefix = file.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if length > limits.SAFETENSORS_HEADER_BYTES:
            most = limits.SAFETENSORS_HEADER_BYTES
            raise UnfitError(f"{path} has a header of {length:,} bytes, and {most:,} is the limit: is it safetensors?")
        text = file.read(length)
    if len(prefix) < _LENGTH_BYTES or len(text) < length:
        raise UnfitError(f"{path} has {file_bytes:,} bytes and ends inside its header: {AGAIN}")
    try:
        return _entries(text, file_bytes)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"{path} is not a sound safetensors file ({error}): {AGAIN}") from error


def _entries(text: bytes, file_bytes: int) -> dict[str, Entry]:
    if not text.startswith(b"{"):
        raise ValueError("its header is no JSON object")
    fields: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    _check_metadata(fields.pop(_METADATA, {}))
    first = _LENGTH_BYTES + len(text)
    entries = {name: _entry(name, fields[name], first) for name in fields}
    _check_places(entries, first, file_bytes)
    return entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a name twice")
    return found


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} is {shown(metadata)}")


def _entry(name: str, fields: Any, first: int) -> Entry:
    """The entry of a header, whose offsets count from the byte `first` of the file."""
    if not name.isascii() or not name.isprintable():
        raise ValueError(f"the name {shown(name)} is not printable ASCII")
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise ValueError(f"{name[:100]} is {shown(fields)}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{name[:100]} has the unknown dtype {shown(dtype)}")
    if not _are_numbers(shape) or len(shape) > _MAX_DIMS:
        raise ValueError(f"{name[:100]} has the shape {shown(shape)}")
    if not _are_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"{name[:100]} has the data_offsets {shown(offsets)}")
    start, stop = offsets
    if stop - start != prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"{name[:100]} of the shape {shown(shape)} in {dtype} has {stop - start:,} bytes")
    return Entry(dtype, tuple(shape), first + start, first + stop)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(each) is int and 0 <= each < _MAX_NUMBER for each in values)


def _check_places(entries: Mapping[str, Entry], first: int, file_bytes: int) -> None:
    """Raise ValueError unless the tensors follow each other from `first` to the end of the file."""
    end = first
    for name, entry in sorted(entries.items(), key=lambda each: (each[1].start, each[1].stop)):
        if entry.start != end:
            what = "overlaps the one before" if entry.start < end else "does not follow the one before"
            raise ValueError(f"{name[:100]} {what}")
        end = entry.stop
    if file_bytes < end:
        raise ValueError(f"it has {file_bytes:,} of {end:,} bytes")
    if file_bytes > end:
        raise ValueError(f"it has {file_bytes:,} bytes, and its tensors end after {end:,}")
