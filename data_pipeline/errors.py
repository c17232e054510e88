"""Errors about text, or a corpus, that cannot be used as it is."""

from copy import copy
from typing import Self

from foretrain.faults import is_full, is_passing
from foretrain.printable import error_message

REMEDY = "copy the file again, or prepare the corpus again"
"""What to do about a file of a corpus whose content is not the one that was written."""


def remedy_of(error: Exception) -> str:
    """What to do about a file of a corpus that cannot be read because of an error."""
    if is_passing(error):
        return "the file system or the network has failed: run the same command again when it is back"
    return "free some space" if is_full(error) else REMEDY


class CorpusError(ValueError):
    """A file cannot be used. The message names the file, the place in it if there is one, and the remedy.

    What it quotes may come from others: control characters in it are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(error_message(message))

    def named(self, prefix: str) -> Self:
        """The same error, with a message that begins with `prefix`."""
        other = copy(self)
        other.args = (f"{prefix}{self}",)
        return other


class UnreadableError(CorpusError):
    """Tokens cannot be read during a run, although their corpus could be opened.

    `is_passing`: they may be readable later. `is_full`: a disk has no room for them. Both are kept here, since an error
    that is sent to other ranks has no cause.
    """

    def __init__(
        self, message: str, shard: str, offset_bytes: int, is_passing: bool = False, is_full: bool = False
    ) -> None:
        super().__init__(message)
        self.shard = shard
        self.offset_bytes = offset_bytes
        """Position in the shard's file."""
        self.is_passing = is_passing
        self.is_full = is_full

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str, int, bool, bool]]:
        return type(self), (str(self), self.shard, self.offset_bytes, self.is_passing, self.is_full)


class UnreachableError(UnreadableError):
    """A file could not be fetched now, after all repetitions, or the cache cannot hold it: later it can be read.

    No other sample takes the place of one for which this is raised.
    """

    def __init__(
        self, message: str, shard: str, offset_bytes: int, is_passing: bool = True, is_full: bool = False
    ) -> None:
        super().__init__(message, shard, offset_bytes, is_passing, is_full)
