"""The errors of this room: text or a corpus that cannot be used as it is."""


class CorpusError(ValueError):
    """The message names the file, and the place in it where there is one, and says what to change."""


class UnreadableError(CorpusError):
    """Tokens that cannot be read while a run goes on, though their corpus could be opened."""

    def __init__(self, message: str, shard: str, offset_bytes: int) -> None:
        super().__init__(message)
        self.shard = shard
        self.offset_bytes = offset_bytes
        """In the shard's file."""

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str, int]]:
        return type(self), (str(self), self.shard, self.offset_bytes)
