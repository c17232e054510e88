"""The error of this room: text or a corpus that cannot be used as it is."""


class CorpusError(ValueError):
    """The message names the file, and the place in it where there is one, and says what to change."""
