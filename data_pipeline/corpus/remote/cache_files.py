"""Calls on the files of a cache that others must not have put there, and what to do about their errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foretrain.data_pipeline.errors import CorpusError, remedy_of
from foretrain.faults import is_full, is_passing
from foretrain.files import close_to_others

MAKE_ROOM = "make room on its disk, lower data.cache.max_gb, or set data.cache.dir to another disk"


def open_file(path: Path, flags: int) -> int:
    """Open a file of the cache. Raises CorpusError for a link, which only someone else can have put there."""
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise CorpusError(f"{path} is a link, which no cache has: remove it, and see who can write there") from error


@contextmanager
def closed_after_errors(descriptor: int) -> Iterator[int]:
    """Yield an open file, which stays open unless the block raises an error."""
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def rename_open(path: Path, target: Path, descriptor: int) -> None:
    """Rename a file, which is also open. That a server has done it counts, although its answer was lost."""
    try:
        path.rename(target)
    except OSError:
        with suppress(FileNotFoundError):
            if os.path.samestat(target.stat(), os.fstat(descriptor)):
                return
        raise


def advice_about(error: OSError, otherwise: str) -> str:
    """What to do about an error of the cache's disk, `otherwise` if it neither passes nor is for want of room."""
    return remedy_of(error) if is_passing(error) else MAKE_ROOM if is_full(error) else otherwise


def check_is_own(folder: Path) -> None:
    """Raise CorpusError unless a folder belongs to this user, and only this user can write into it.

    The files in it are trusted. A folder that one's own group may write into is closed to it.
    """
    if problem := close_to_others(folder, "the tokens"):
        raise CorpusError(f"{problem}: set data.cache.dir to a folder of your own, such as one with your name in it")
