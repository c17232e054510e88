"""Choice of the store of a corpus by its path or URL."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.store import FolderStore, Store
from foretrain.data_pipeline.errors import CorpusError

PIPE = "pipe:"
_inspection: ContextVar[tuple[str, tuple[str, ...]] | None] = ContextVar("_inspection", default=None)
"""What starts no commands, and the texts in which a user may name them all the same; None: commands are started."""


class CommandNotStartedError(CorpusError):
    """A corpus is the output of a command, which must not be started here."""


@contextmanager
def starting_no_commands(what: str, typed: Iterable[str] = ()) -> Iterator[None]:
    """Let `open_store` raise CommandNotStartedError for a corpus that is a command, inside the block.

    A config may come from someone else, and who only looks at it does not expect that it runs. `what` names in the
    message what looks. A command that is part of one of `typed`, which the user has typed, is started.
    """
    token = _inspection.set((what, tuple(typed)))
    try:
        yield
    finally:
        _inspection.reset(token)


def open_store(path: str | Path, cache: CacheConfig | None = None) -> Store:
    """Return the store of a folder (path or file://) or of a URL (http(s)://, pipe:COMMAND {}, s3:// and others).

    For a URL, the manifest is fetched at once. Raises CorpusError if that fails, and CommandNotStartedError inside
    `starting_no_commands`.
    """
    path = str(path).removeprefix("file://")
    if not is_url(path):
        return FolderStore(path)
    _refuse_command(path)
    from foretrain.data_pipeline.corpus.remote.store import RemoteStore  # imports the libraries for the network

    return RemoteStore(path, cache or CacheConfig())


def _refuse_command(path: str) -> None:
    inspection = _inspection.get()
    if inspection is None or not path.startswith(PIPE):
        return
    what, typed = inspection
    if not any(path in text for text in typed):
        raise CommandNotStartedError(
            f"{what} starts no command that a config names, so the data were not opened: {path}. If you trust it, name "
            f"it yourself by the override data.path, or data.sources.NAME.path: '...path={path}'"
        )


def is_url(path: str) -> bool:
    """Return whether a path is the URL of a corpus, and not a folder."""
    return "://" in path or path.startswith(PIPE)
