"""Where the files of a corpus come from: a folder, or a server from which they pass through a cache on this machine."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.errors import CorpusError


@dataclass(frozen=True)
class StoreCounts:
    """What a store has done since it was made, in this process."""

    hits: int = 0
    """Shards opened that were in the cache."""
    misses: int = 0
    """Shards opened that had to be fetched first."""
    downloaded_bytes: int = 0
    retries: int = 0


class Store(ABC):
    """The files of one corpus, by name. Safe to use from several threads; a pickled copy works in another process."""

    url: str
    """Of the folder, for messages."""
    is_local: bool

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return where a small file (manifest, tokenizer, index) lies on this machine. Raises CorpusError."""

    @abstractmethod
    def open(self, name: str) -> int:
        """Return a file descriptor to read from, which the caller closes.

        Raises CorpusError; its kind UnreadableError where the file cannot be had, after all retries.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Return the size of a file, bytes. Raises CorpusError."""

    def read(self, name: str) -> bytes:
        """Return all of a small file. Raises CorpusError."""
        return self.path(name).read_bytes()

    def expect(self, name: str, size_bytes: int | None, sha256: str) -> None:  # noqa: B027
        """Tell what the manifest says of a file, before it is asked for: what is fetched is checked against it.

        size_bytes is None where the manifest does not tell it.
        """

    def prefetch(self, names: Iterable[str]) -> None:  # noqa: B027
        """Fetch files ahead in the background, in this order of need; takes the place of the order given before."""

    @property
    def counts(self) -> StoreCounts:
        """What this store has done so far."""
        return StoreCounts()

    def close(self) -> None:  # noqa: B027
        """End what goes on in the background."""


class FolderStore(Store):
    """A folder on this machine, or on a file system that it mounts."""

    is_local = True

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.url = str(folder)

    def path(self, name: str) -> Path:
        """Return the file itself."""
        path = self.folder / name
        if not path.is_file():
            raise CorpusError(f"{path} is missing: bring it back, or prepare the corpus again")
        return path

    def open(self, name: str) -> int:
        """Return a file descriptor of the file itself."""
        return os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)

    def size(self, name: str) -> int:
        """Return the size that the file has now, bytes."""
        return self.path(name).stat().st_size
