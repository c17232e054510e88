"""The source of a corpus's files: a folder, or a server, whose files come through a cache on this machine."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.errors import CorpusError
from foretrain.files import is_file


@dataclass(frozen=True)
class StoreCounts:
    """What a store has done in this process since it was made."""

    hits: int = 0
    """Opened shards that were in the cache."""
    misses: int = 0
    """Opened shards that had to be fetched first."""
    downloaded_bytes: int = 0
    retries: int = 0


class Store(ABC):
    """The files of one corpus, by name. Several threads may use it; a pickled copy works in another process."""

    url: str
    """URL or path of the corpus, for messages."""
    is_local: bool

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the path of a small file (manifest, tokenizer, index) on this machine. Raises CorpusError."""

    @abstractmethod
    def open(self, name: str) -> int:
        """Return a file descriptor to read from, which the caller closes.

        Raises CorpusError, and its subclass UnreadableError if the file cannot be fetched after all retries.
        """

    def read(self, name: str) -> bytes:
        """Return all of a small file. Raises CorpusError."""
        return self.path(name).read_bytes()

    def expect(  # noqa: B027 (a store may have nothing to do)
        self, name: str, size_bytes: int | None, sha256: str, max_bytes: int | None = None
    ) -> None:
        """Set what the manifest says of a file, against which the file is checked when it is fetched.

        size_bytes is None if the manifest does not say it; max_bytes is then the most that it may have.
        """

    def prefetch(self, names: Iterable[str]) -> None:  # noqa: B027 (a store may have nothing to do)
        """Fetch files in the background, in this order, which replaces the order of the previous call."""

    @property
    def counts(self) -> StoreCounts:
        """What this store has done so far in this process."""
        return StoreCounts()

    def close(self) -> None:  # noqa: B027 (a store may have nothing to do)
        """Stop the work in the background."""


class FolderStore(Store):
    """A folder on this machine, or on a file system that it mounts."""

    is_local = True

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.url = str(folder)

    def path(self, name: str) -> Path:
        """Return the file itself."""
        path = self.folder / name
        if not is_file(path):
            raise CorpusError(f"{path} is missing: bring it back, or prepare the corpus again")
        return path

    def open(self, name: str) -> int:
        """Return a file descriptor of the file itself."""
        return os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
