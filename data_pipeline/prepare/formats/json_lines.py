"""JSON lines: a line is a document."""

import io
from pathlib import Path

from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading


class JsonLines(Format):
    """Lines that are JSON objects, with the text under one key."""

    endings = (".jsonl",)

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the text of each line."""
        yield from reading.texts.read_lines(stream, str(file))
