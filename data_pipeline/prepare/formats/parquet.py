"""Parquet files: a row is a document, which one column has."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.formats.columns import column_of, read_rows

BATCH_ROWS = 256
"""Most rows that are read at once."""


class Parquet(Format):
    """Tables with a column of strings, or of lists of tokens. Only that column is read."""

    endings = (".parquet",)
    may_be_compressed = False

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the document of each row."""
        yield from read_rows(_batches, stream, file, reading)


def _batches(pa: ModuleType, stream: io.BufferedIOBase, key: str, place: str) -> Iterator[Any]:
    """Yield arrays of the column's values, in the order of rows.

    A small file can have millions of rows of one long text, which it stores once. No text is longer than what is stored
    in a group of rows, so the number of rows that are read at once follows from that.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(stream)
    column_of(pa, file.schema_arrow, key, place)
    for group in range(file.num_row_groups):
        # That of all columns: if metadata are damaged, pyarrow ends the process when it is asked for that of one.
        stored_bytes = file.metadata.row_group(group).total_byte_size
        at_once = max(1, min(BATCH_ROWS, limits.DOCUMENT_BYTES // max(1, stored_bytes)))
        for batch in file.iter_batches(at_once, row_groups=[group], columns=[key]):
            yield batch.column(0)
