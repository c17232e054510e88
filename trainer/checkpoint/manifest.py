"""The list of a checkpoint's files with their checksums, written last."""

import json
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from foretrain.progress import Advance
from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES, DamagedError, check_file, confirmed, read_trailer
from foretrain.trainer.checkpoint.folders import MANIFEST, CheckpointFolder, RemoteFolder, folder_of
from foretrain.trainer.checkpoint.places import Place, files_in, read_file, write_file
from foretrain.typed_json import from_json

METADATA = ".metadata"
"""The file in which torch.distributed.checkpoint keeps which part of which tensor is where."""
VERSION = 1
NUM_SUMS = 2
"""Numbers of a file in the list: its bytes and a checksum."""


@dataclass(frozen=True)
class _Listing:
    files: dict[str, list[int]]


def write_manifest(folder: Place) -> None:
    """List the files of a new checkpoint."""
    files = {path.name: _sums(path) for path in files_in(folder)}
    write_file(folder / MANIFEST, _text(files))


def has_manifest(folder: Place) -> bool:
    """Whether a checkpoint was written with checksums, though their list may be missing; earlier versions wrote none.

    Raises DamagedError if neither its list nor the checksums of its metadata can be read.
    """
    metadata = folder / METADATA
    return (folder / MANIFEST).is_file() or (metadata.is_file() and read_trailer(metadata) is not None)


def content_bytes(folder: Place) -> int:
    """Bytes of the files of a checkpoint, without their checksums. Raises DamagedError if the list is damaged."""
    return sum(num_bytes for num_bytes, _ in _read(folder).values())


def check_files(folder: Place) -> None:
    """Raise DamagedError unless the files of a checkpoint are those that were written, as far as a quick look shows.

    That is: all of the small files, and the size and the checksums of the large ones.
    """
    for name, written in _read(folder).items():
        confirmed(partial(_check_sums, folder / name, written))


def _check_sums(path: Place, written: list[int]) -> None:
    if not path.is_file():
        raise DamagedError(f"{path} is missing")
    if _sums(path) != written:
        raise DamagedError(f"{path} is not what was written")


def check_content(folder: Place, advance: Advance = lambda num_bytes: None) -> None:
    """Raise DamagedError unless every byte of the files of a checkpoint is what was written.

    `advance` counts the bytes, which are `content_bytes` in all.
    """
    check_files(folder)
    for name, (num_bytes, _) in _read(folder).items():
        if read_trailer(folder / name) is not None:
            check_file(folder / name, advance)
        else:
            advance(num_bytes)  # check_files has read all of it


def set_aside(checkpoint: Place, error: DamagedError) -> str:
    """Keep a damaged checkpoint aside, so that no run resumes from it. Returns a message about that."""
    try:
        kept = folder_of(checkpoint.parent).set_aside(checkpoint)
    except FileNotFoundError:  # another process has found the damage, too
        return f"{error}: the checkpoint is damaged"
    return f"{error}: the checkpoint is damaged, is kept as {kept}, and the one before it is used"


def check_none_counts_as_partial(folder: CheckpointFolder[Any]) -> None:
    """Raise ValueError if a folder of a server has a checkpoint of an earlier version, which had no checksums.

    The next save, or `prune`, would remove it, as one that was interrupted.
    """
    for path in folder.partial() if isinstance(folder, RemoteFolder) else []:
        with suppress(DamagedError):
            if (path / METADATA).is_file() and not has_manifest(path):
                raise ValueError(
                    f"{path} has no {MANIFEST}, as checkpoints of an earlier version, and the next save would remove "
                    "it: move it to another folder. To continue from it, copy it into the folder checkpoints of a "
                    "run_dir, and leave train.checkpoint_folder out"
                )


def _read(folder: Place) -> dict[str, list[int]]:
    return confirmed(lambda: _read_once(folder / MANIFEST))


def _read_once(path: Place) -> dict[str, list[int]]:
    try:
        content = read_file(path)
        files = from_json(_Listing, content, VERSION).files
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except ValueError as error:
        raise DamagedError(f"{path} cannot be read: {error}") from error
    for name, sums in files.items():
        if "/" in name or name in ("", ".", "..") or len(sums) != NUM_SUMS:
            raise DamagedError(f"{path} has {name[:100]!r}, which is no file of a checkpoint")
    if content != _text(files).encode():  # so that no byte of it can change
        raise DamagedError(f"{path} is not what was written")
    return files


def _text(files: dict[str, list[int]]) -> str:
    crc = zlib.crc32(json.dumps(files, sort_keys=True).encode())
    return json.dumps({"version": VERSION, "files": files, "crc32": crc}, indent=1)


def _sums(path: Place) -> list[int]:
    """Bytes of a file, and the checksum of its content, or of its checksums if it has some."""
    found = read_trailer(path)
    if found is not None:
        num_bytes, sums = found
        return [num_bytes, zlib.crc32(json.dumps(sums).encode())]
    crc = 0
    with path.open("rb") as file:
        while part := file.read(BLOCK_BYTES):
            crc = zlib.crc32(part, crc)
    return [path.stat().st_size, crc]
