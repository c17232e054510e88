"""Checkpoints of an attacker: they have the files and the checksums of real ones, and run a command if they can."""

import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from foretrain.trainer.checkpoint.checksums import ChecksumWriter, read_checked
from foretrain.trainer.checkpoint.folders import MANIFEST
from foretrain.trainer.checkpoint.manifest import METADATA, write_manifest


class Command:
    """An object that makes the folder `sign` when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.sign),)


def metadata_with_a_command(checkpoint: Path, sign: Path) -> None:
    """The metadata themselves call a function, and are right otherwise."""
    metadata = _metadata(checkpoint)
    metadata.version = Command(sign)  # type: ignore[assignment]
    _write(checkpoint / METADATA, pickle.dumps(metadata))


def an_object_instead_of_a_tensor(checkpoint: Path, sign: Path) -> None:
    """The metadata have harmless types only, but say that a weight is an object, which torch unpickles."""
    metadata = _metadata(checkpoint)
    name, tensor = next(iter(metadata.state_dict_metadata.items()))
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    index = MetadataIndex(name, tensor.chunks[0].offsets)  # type: ignore[union-attr]
    info = metadata.storage_data.pop(index)
    with Path(checkpoint / "object").open("wb") as file:
        torch.save(Command(sign), file)
    info.relative_path, info.offset, info.length = "object", 0, (checkpoint / "object").stat().st_size
    metadata.storage_data[MetadataIndex(name)] = info
    _write(checkpoint / "object", (checkpoint / "object").read_bytes())
    _write(checkpoint / METADATA, pickle.dumps(metadata))


def a_file_of_another_folder(checkpoint: Path, sign: Path) -> None:
    """A weight is read from a file beside the checkpoint. The sign is that it was."""
    metadata = _metadata(checkpoint)
    for info in metadata.storage_data.values():
        info.relative_path = f"../{info.relative_path}"
    for file in checkpoint.glob("*.distcp"):
        file.rename(checkpoint.parent / file.name)
    _write(checkpoint / METADATA, pickle.dumps(metadata))


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    attack.__name__: attack
    for attack in (metadata_with_a_command, an_object_instead_of_a_tensor, a_file_of_another_folder)
}


def attack(checkpoint: Path, name: str, sign: Path, *, has_checksums: bool = True) -> None:
    """Make a sound checkpoint a hostile one."""
    ATTACKS[name](checkpoint, sign)
    (checkpoint / MANIFEST).unlink()
    if has_checksums:
        write_manifest(checkpoint)
        return
    for file in (checkpoint / METADATA, *checkpoint.glob("*.distcp"), *checkpoint.glob("object")):
        file.write_bytes(read_checked(file))  # as version 0.1 wrote it


def pickle_that_changes_a_class(module: str, name: str) -> bytes:
    """A pickle that changes an attribute of a class itself, without a call of anything."""
    code = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"N}X\x06\x00\x00\x00poisonK\x01s\x86b."
    assert [*pickletools.genops(code)][-1][0].name == "STOP"  # it is a pickle
    return code


def _metadata(checkpoint: Path) -> Metadata:
    metadata: Metadata = pickle.loads(read_checked(checkpoint / METADATA))  # a run of this test has written it
    return metadata


def _write(path: Path, content: bytes) -> None:
    with ChecksumWriter(path) as file:
        file.write(content)
