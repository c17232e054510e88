"""Errors about text, or a corpus, that cannot be used as it is."""

from copy import copy
from typing import Self

from foretrain.printable import quotable

REMEDY = "copy the file again, or prepare the corpus again"
"""What to do about a file of a corpus whose content is not the one that was written."""


_MESSAGE_CHARS = 4_000
"""More of a message would show what is wrong no better."""


class CorpusError(ValueError):
    """A file cannot be used. The message names the file, the place in it if there is one, and the remedy.

    What it quotes may come from others: control characters in it are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(quotable(message[:_MESSAGE_CHARS])[:_MESSAGE_CHARS])

    def named(self, prefix: str) -> Self:
        """The same error, with a message that begins with `prefix`."""
        other = copy(self)
        other.args = (f"{prefix}{self}",)
        return other


class UnreadableError(CorpusError):
    """Tokens cannot be read during a run, although their corpus could be opened."""

    def __init__(self, message: str, shard: str, offset_bytes: int) -> None:
        super().__init__(message)
        self.shard = shard
        self.offset_bytes = offset_bytes
        """Position in the shard's file."""

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str, int]]:
        return type(self), (str(self), self.shard, self.offset_bytes)


class UnreachableError(UnreadableError):
    """A file could not be fetched now, after all repetitions: its server or the network may be back later."""

    is_passing = True
