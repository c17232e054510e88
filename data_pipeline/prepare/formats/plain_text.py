"""Text files: a file is a document."""

import io
from pathlib import Path

from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.unpack import read_document


class PlainText(Format):
    """UTF-8 text, of any language or programming language."""

    endings = (".txt", ".md", ".py")

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the text of the file."""
        yield reading.texts.decode_file(read_document(stream, str(file)))
