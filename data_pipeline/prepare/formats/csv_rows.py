"""CSV and TSV files: a row is a document, and the first row names the columns."""

import csv
import io
from collections.abc import Generator
from pathlib import Path
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.unpack import too_large, without_compression


class CsvRows(Format):
    """Rows as Python's `csv` reads them: a field in quotes may have delimiters and new lines, and "" is a quote."""

    endings = (".csv", ".tsv")

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the field of each row in the column that has the text. Blank lines are skipped."""
        csv.field_size_limit(limits.DOCUMENT_BYTES)  # Python's own is 128 KiB
        delimiter = "\t" if without_compression(file.name).endswith(".tsv") else ","
        lines = _lines(stream, str(file))
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        column, num_columns = None, 0
        try:
            for row in rows:
                if not row:
                    continue
                if column is None:
                    column, num_columns = _column_of(row, reading.texts.key, str(file)), len(row)
                elif len(row) != num_columns:
                    reading.texts.bad(_wrong_length(f"{file}:{rows.line_num}", len(row), num_columns))
                else:
                    yield reading.texts.decode(row[column].encode("utf-8", "surrogateescape"))
        except csv.Error as error:
            raise CorpusError(
                f"{file}:{rows.line_num} is no row of {file.suffix} ({error}): repair it or leave the file out"
            ) from error
        finally:
            lines.close()


def _lines(stream: io.BufferedIOBase, place: str) -> Generator[str, None, None]:
    """Yield the lines with their ends, of which `csv` knows three kinds. Bytes that are no UTF-8 become surrogates."""
    text: io.TextIOWrapper[Any] = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        mark = "\ufeff"  # a byte order mark may begin the first line
        while line := text.readline(limits.DOCUMENT_BYTES + 1).removeprefix(mark):
            if len(line) > limits.DOCUMENT_BYTES:
                raise too_large(place)
            yield line
            mark = ""
    finally:
        text.detach()  # else it would close the file


def _column_of(names: list[str], key: str, place: str) -> int:
    if names.count(key) != 1:
        wrong = "no column" if key not in names else "several columns"
        raise CorpusError(
            f"{place} has {wrong} {key!r}; its first row is {[name[:100] for name in names[:20]]}: choose the column "
            "of the text with --text-key, or leave the file out"
        )
    return names.index(key)


def _wrong_length(place: str, num_fields: int, num_columns: int) -> CorpusError:
    return CorpusError(
        f"{place}: the row that ends here has {num_fields} fields, and the first row {num_columns}: repair it, with "
        'quotes around fields that have delimiters ("a, b")'
    )
