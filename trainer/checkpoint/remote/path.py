"""A file or folder of a server, with those methods of `pathlib.Path` that checkpoints need."""

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, NamedTuple

from foretrain.trainer.checkpoint.remote.requests import file_system, repeated
from foretrain.trainer.checkpoint.remote.streams import RemoteReader, RemoteWriter, fetch


class Stat(NamedTuple):
    """What a server says of a file, by the names that `os.stat_result` has for it."""

    st_size: int
    """Bytes."""
    st_mtime: float
    """Seconds since 1970 at which it was written; 0 if the server does not say it."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder at a URL that fsspec knows, such as s3://bucket/run.

    The methods do what those of `pathlib.Path` do. They raise FileNotFoundError and PermissionError as those, and
    RemoteError if the server does not answer as it should.
    """

    url: str
    """The URL, without a slash at its end."""

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder in which it is."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Another one in the same folder."""
        return self.parent / name

    def absolute(self) -> "RemotePath":
        """Itself: a URL depends on no working directory."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> Stat:
        """The size of a file, and when it was written. A server has no symbolic links."""
        info = self._info()
        written = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
        return Stat(info["size"], written.timestamp() if isinstance(written, datetime) else float(written))

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there are files whose URLs begin with this one and a slash."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self._kind() is not None

    def iterdir(self) -> Iterator["RemotePath"]:
        """The files and folders in it."""
        files, name = file_system(self.url)
        found = repeated(self.url, lambda: files.ls(name, detail=False))
        names = {each.rstrip("/").rpartition("/")[2] for each in found if each.rstrip("/") != name.rstrip("/")}
        yield from (self / each for each in sorted(names))

    def open(self, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
        """A stream that reads the file ("rb") or writes a new one ("wb"), which is there after it was closed."""
        if mode == "wb":
            return RemoteWriter(self.url)  # type: ignore[return-value]
        reader = RemoteReader(self.url)
        return reader if buffering == 0 else io.BufferedReader(reader)  # type: ignore[return-value]

    def read_bytes(self) -> bytes:
        """The content of a file."""
        files, name = file_system(self.url)
        content: bytes = repeated(self.url, lambda: files.cat_file(name))
        return content

    def read_range(self, first: int, stop: int) -> bytes:
        """The bytes from `first` up to `stop` of a file that has them."""
        return fetch(self.url, first, stop)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content of a text file."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Write a file, of which readers see all or nothing."""
        files, name = file_system(self.url)
        repeated(self.url, lambda: files.pipe_file(name, content))
        return len(content)

    def mkdir(self, **kwargs: Any) -> None:
        """Nothing: a folder is there as long as there are files in it."""

    def unlink(self) -> None:
        """Remove a file. If it is gone already, nothing happens, since a request may be repeated that was done."""
        files, name = file_system(self.url)
        with suppress(FileNotFoundError):
            repeated(self.url, lambda: files.rm_file(name))

    def remove_tree(self) -> None:
        """Remove a folder and all that is in it."""
        files, name = file_system(self.url)
        with suppress(FileNotFoundError):
            repeated(self.url, lambda: files.rm(name, recursive=True))

    def copy(self, target: "RemotePath") -> None:
        """Let the server copy a file to another place on it."""
        files, name = file_system(self.url)
        to = file_system(target.url)[1]
        repeated(self.url, lambda: files.cp_file(name, to))

    def rename(self, target: "RemotePath") -> None:
        """Give a file another name. For a moment it has both."""
        self.copy(target)
        self.unlink()

    def _info(self) -> dict[str, Any]:
        files, name = file_system(self.url)
        info: dict[str, Any] = repeated(self.url, lambda: files.info(name))
        return info

    def _kind(self) -> str | None:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None
