"""Arrays of tokens in files of numpy."""

import io
from pathlib import Path

from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading


class Npy(Format):
    """A row of tokens, in which an EOT token ends a document, or rows of tokens, each of which is a document."""

    endings = (".npy",)

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the documents of the rows."""
        yield from reading.tokens_of(str(file)).read_npy(stream, str(file))
