"""Plain WebDataset shards: a sample is a document, or more."""

import io
from pathlib import Path

from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.tar_documents import TarDocuments


class Tar(Format):
    """Shards as `webdataset` and other tools write them; `tar_documents` reads them."""

    endings = (".tar",)

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the documents of the samples, and count the samples that are left out."""
        tars = TarDocuments(reading.texts, reading.token_format, reading.member, reading.skip_textless)
        before = reading.num_skipped
        for document in tars.read(stream, str(file)):
            reading.num_skipped = before + tars.num_skipped
            yield document
        reading.num_skipped = before + tars.num_skipped
