"""The metadata of a checkpoint: which tensors it has and where they are, read without executing what is in the file.

torch.distributed.checkpoint keeps it as a pickle, and a pickle can call any function. Here, no name in a pickle leads
to a function or to a class of a library: those that such a list needs are names of objects without any behaviour, from
which the metadata are made after a check of every field. All other names are refused.
"""

import io
import pickle
import pickletools
from math import prod
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.places import Place


class UnsafeError(ValueError):
    """A checkpoint has what no checkpoint of foretrain has, and what would run commands; the message names it."""


class _Object:
    """An object of a pickle, as plain values. Its class cannot be changed by a pickle, since it has `__setstate__`."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


_TORCH = "torch.distributed.checkpoint."
_KNOWN = {
    (_TORCH + "metadata", "Metadata"),
    (_TORCH + "metadata", "MetadataIndex"),
    (_TORCH + "metadata", "StorageMeta"),
    (_TORCH + "metadata", "TensorStorageMetadata"),
    (_TORCH + "metadata", "ChunkStorageMetadata"),
    (_TORCH + "metadata", "TensorProperties"),
    (_TORCH + "metadata", "BytesStorageMetadata"),  # so that its refusal can name the entry
    (_TORCH + "metadata", "_MEM_FORMAT_ENCODING"),
    (_TORCH + "filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),  # the folder, in checkpoints of version 0.1
}
"""The names in the metadata of a real checkpoint, beside those of torch's dtypes."""
_STAND_INS: dict[tuple[str, str], type[_Object]] = {
    known: type(known[1], (_Object,), {"__slots__": ()}) for known in _KNOWN
}
_OBJECTS = {name: stand_in for (_, name), stand_in in _STAND_INS.items()}


_NUMBERS_OBJECTS = {"PUT", "BINPUT", "LONG_BINPUT"}
"""Instructions of a pickle that give a number to an object."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise UnsafeError(f"{module}.{name}")


def read_metadata(content: bytes, file: Place, *, of_one_rank: bool = False) -> Metadata:
    """The metadata in the content of `file`: those of a checkpoint, or `of_one_rank`, which has parts of its tensors.

    Raises UnsafeError if loading it in another way might run commands or read files outside of the checkpoint, and
    DamagedError if it is not the list of tensors, each of them complete.
    """
    try:
        if not of_one_rank:  # those were written a moment ago, and steps would wait for this look at each instruction
            _check_memory(content)
        found = _Unpickler(io.BytesIO(content)).load()
    except UnsafeError as error:
        raise UnsafeError(
            f"{file} names {str(error)!r}, which is no part of a list of tensors: other programs that open this "
            "checkpoint may run commands of whoever made it. Use a checkpoint from a source that you trust"
        ) from None
    except Exception as error:
        raise DamagedError(f"{file} is not the list of a checkpoint's tensors ({type(error).__name__})") from error
    return _Reading(file, of_one_rank).metadata(found)


def _check_memory(content: bytes) -> None:
    """Raise ValueError for a pickle that numbers an object beyond its own size: memory is taken up to that number."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _NUMBERS_OBJECTS and int(argument or 0) > len(content):
            raise ValueError(f"object {argument}")


class _Reading:
    """The conversion of the objects of one pickle, with a check of each field."""

    def __init__(self, file: Place, of_one_rank: bool) -> None:
        self._file, self._of_one_rank = file, of_one_rank

    def metadata(self, found: Any) -> Metadata:
        fields = self._fields(found, "Metadata")
        entries = self._of(dict, fields.get("state_dict_metadata"))
        tensors = {self._of(str, name): self._tensor(name, entry) for name, entry in entries.items()}
        stored = self._of(dict, fields.get("storage_data"))
        storage = {self._index(index): self._storage(info) for index, info in stored.items()}
        for name, tensor in tensors.items():
            for chunk in tensor.chunks:
                if MetadataIndex(name, chunk.offsets) not in storage:
                    raise self._damage(f"does not say where a part of {name!r} is")
        return Metadata(
            state_dict_metadata=dict(tensors),
            planner_data=self._names(fields.get("planner_data") or {}),
            storage_data=storage,
            storage_meta=self._storage_meta(fields.get("storage_meta")),
            version=self._text_or_none(fields.get("version")),
        )

    def _tensor(self, name: str, found: Any) -> TensorStorageMetadata:
        if type(found) is not _OBJECTS["TensorStorageMetadata"]:
            raise UnsafeError(
                f"{self._file}: {name!r} is not a tensor but an object, which other programs would unpickle and so "
                "execute. Use a checkpoint from a source that you trust"
            )
        fields = self._fields(found, "TensorStorageMetadata")
        size = self._size(fields.get("size"))
        chunks = [self._chunk(chunk, size) for chunk in self._of(list, fields.get("chunks"))]
        if not self._of_one_rank and sum(prod(chunk.sizes) for chunk in chunks) < prod(size):
            raise self._damage(f"lacks parts of {name!r}")
        return TensorStorageMetadata(TensorProperties(self._dtype(fields.get("properties"))), size, chunks)

    def _chunk(self, found: Any, size: torch.Size) -> ChunkStorageMetadata:
        fields = self._fields(found, "ChunkStorageMetadata")
        offsets, sizes = self._size(fields.get("offsets")), self._size(fields.get("sizes"))
        if not len(offsets) == len(sizes) == len(size) or any(
            offset + length > limit for offset, length, limit in zip(offsets, sizes, size, strict=True)
        ):
            raise self._damage("has a part outside of its tensor")
        return ChunkStorageMetadata(offsets, sizes)

    def _dtype(self, found: Any) -> torch.dtype:
        state = self._of(tuple, self._state(found, "TensorProperties"))
        dtype: torch.dtype = self._of(torch.dtype, state[0] if state else None)
        return dtype

    def _index(self, found: Any) -> MetadataIndex:
        fields = self._fields(found, "MetadataIndex")
        offset, index = fields.get("offset"), fields.get("index")
        return MetadataIndex(
            self._of(str, fields.get("fqn")),
            None if offset is None else self._size(offset),
            None if index is None else self._of(int, index),
        )

    def _storage(self, found: Any) -> _StorageInfo:
        fields = self._fields(found, "_StorageInfo")
        name = self._of(str, fields.get("relative_path"))
        if "/" in name or name in ("", ".", ".."):
            raise UnsafeError(
                f"{self._file} names the file {name!r}, which is not one of the checkpoint's own folder. Use a "
                "checkpoint from a source that you trust"
            )
        if fields.get("transform_descriptors"):
            raise self._damage("has tensors that are encoded, which foretrain cannot read")
        offset, length = (self._of(int, fields.get(key)) for key in ("offset", "length"))
        if min(offset, length) < 0:
            raise self._damage("has a part before the start of its file")
        return _StorageInfo(name, offset, length)

    def _names(self, found: Any) -> dict[str, tuple[str | int, ...]]:
        """How a nested dictionary of states is made of the names: each name and its path."""
        paths = {self._of(str, name): self._of(tuple, path) for name, path in self._of(dict, found).items()}
        if any(type(part) not in (str, int) for path in paths.values() for part in path):
            raise self._damage("has a name that is no text")
        return paths

    def _storage_meta(self, found: Any) -> StorageMeta:
        fields = {} if found is None else self._fields(found, "StorageMeta")
        folder, save_id = fields.get("checkpoint_id"), fields.get("save_id")
        return StorageMeta(folder if type(folder) is str else None, self._text_or_none(save_id))

    def _size(self, found: Any) -> torch.Size:
        arguments: tuple[Any, ...] = getattr(found, "arguments", ())
        if type(found) is not _OBJECTS["Size"] or len(arguments) != 1 or type(arguments[0]) is not tuple:
            raise self._damage("has a size that is none")
        (sizes,) = arguments
        if any(type(size) is not int or not 0 <= size < 2**63 for size in sizes):
            raise self._damage("has a size that is no number")
        return torch.Size(sizes)

    def _text_or_none(self, found: Any) -> str | None:
        return None if found is None else self._of(str, found)

    def _fields(self, found: Any, name: str) -> dict[str, Any]:
        fields: dict[str, Any] = self._of(dict, self._state(found, name))
        return fields

    def _state(self, found: Any, name: str) -> Any:
        state = getattr(found, "state", None)
        if type(found) is not _OBJECTS[name]:
            raise self._damage(f"lacks an object of the type {name}")
        return state

    def _of(self, kind: type, found: Any) -> Any:
        if type(found) is not kind:
            raise self._damage(f"has a {type(found).__name__} where a {kind.__name__} must be")
        return found

    def _damage(self, what: str) -> DamagedError:
        return DamagedError(f"{self._file} {what}: it is not the list of a checkpoint's tensors")
