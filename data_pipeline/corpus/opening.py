"""Choice of the store of a corpus by its path or URL."""

from pathlib import Path

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.store import FolderStore, Store


def open_store(path: str | Path, cache: CacheConfig | None = None) -> Store:
    """Return the store of a folder (path or file://) or of a URL (http(s)://, pipe:COMMAND {}, s3:// and others).

    For a URL, the manifest is fetched at once. Raises CorpusError if that fails.
    """
    path = str(path).removeprefix("file://")
    if not is_url(path):
        return FolderStore(path)
    from foretrain.data_pipeline.corpus.remote.store import RemoteStore  # imports the libraries for the network

    return RemoteStore(path, cache or CacheConfig())


def is_url(path: str) -> bool:
    """Return whether a path is the URL of a corpus, and not a folder."""
    return "://" in path or path.startswith("pipe:")
