"""Choice of the store of a corpus by its path or URL."""

from pathlib import Path

from foretrain import inspection
from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.store import FolderStore, Store
from foretrain.data_pipeline.errors import CorpusError

PIPE = "pipe:"


class CommandNotStartedError(CorpusError):
    """A corpus is the output of a command, which must not be started here."""


def open_store(path: str | Path, cache: CacheConfig | None = None) -> Store:
    """Return the store of a folder (path or file://) or of a URL (http(s)://, pipe:COMMAND {}, s3:// and others).

    For a URL, the manifest is fetched at once. Raises CorpusError if that fails, and CommandNotStartedError inside
    `inspection.only_looking` for a command that the user has not typed.
    """
    path = str(path).removeprefix("file://")
    if not is_url(path):
        return FolderStore(path)
    _refuse_command(path)
    from foretrain.data_pipeline.corpus.remote.store import RemoteStore  # imports the libraries for the network

    return RemoteStore(path, cache or CacheConfig())


def _refuse_command(path: str) -> None:
    looks = inspection.current()
    if looks is not None and path.startswith(PIPE) and not looks.allows(path):
        raise CommandNotStartedError(
            f"{looks.what} starts no command that a config names, so the data were not opened: {path}. If you trust "
            f"it, name it yourself by the override data.path, or data.sources.NAME.path: '...path={path}'"
        )


def is_url(path: str) -> bool:
    """Return whether a path is the URL of a corpus, and not a folder."""
    return "://" in path or path.startswith(PIPE)
