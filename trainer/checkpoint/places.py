"""Where checkpoints are: a folder of this machine, or one of a server. Most code does not need to know which."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretrain.files import naming, write_atomically
from foretrain.trainer.checkpoint.remote.path import RemotePath

Place = Path | RemotePath
"""A file or a folder, here or on a server."""


def place_of(text: str | Path) -> Place:
    """The place that a user names by a path or by a URL."""
    if isinstance(text, str) and "://" in text:
        return RemotePath(text.rstrip("/"))
    return Path(text)


def write_file(place: Place, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that readers see the old or the new content and never a part of either."""
    if isinstance(place, Path):
        write_atomically(place, content)
    else:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def read_file(place: Place) -> bytes:
    """The content of a file."""
    if not isinstance(place, Path):
        return place.read_bytes()
    with naming(place):
        return place.read_bytes()


def read_range(place: Place, first: int, stop: int) -> bytearray:
    """The bytes from `first` up to `stop` of a file, and no others; fewer, if the file ends before."""
    if not isinstance(place, Path):
        return bytearray(place.read_range(first, stop))
    content = bytearray(stop - first)
    with naming(place), place.open("rb", buffering=0) as file:
        file.seek(first)
        num_bytes = 0
        while num_bytes < len(content) and (more := file.readinto(memoryview(content)[num_bytes:])):
            num_bytes += more
    return content[:num_bytes] if num_bytes < len(content) else content


def files_in(folder: Place) -> list[Any]:
    """The files and folders in a folder, as places, by name."""
    return sorted(folder.iterdir())


@contextmanager
def on_disk(place: Place) -> Iterator[Path]:
    """A small file for functions that need a path of this machine: itself, or a copy that is removed after the block.

    A file that is missing on a server is missing here too.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="foretrain-") as folder:
        copy = Path(folder, place.name)
        if place.is_file():
            copy.write_bytes(place.read_bytes())
        yield copy
