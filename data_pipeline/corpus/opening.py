"""Choice of the store of a corpus by its path or URL."""

from pathlib import Path

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.store import FolderStore, Store


def open_store(path: str | Path, cache: CacheConfig | None = None) -> Store:
    """Return the store of a folder (path or file://) or of a URL (http(s)://, pipe:COMMAND {}, s3:// and others).

    For a URL, the manifest is fetched at once. Raises CorpusError if that fails.
    """
    path = str(path).removeprefix("file://")
    if not path.startswith("pipe:") and "://" not in path:
        return FolderStore(path)
    from foretrain.data_pipeline.corpus.remote.store import RemoteStore  # imports the libraries for the network

    return RemoteStore(path, cache or CacheConfig())
