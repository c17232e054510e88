"""Arrow files, such as those of `save_to_disk` of Hugging Face's `datasets`: a row is a document."""

import io
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import read_bounded
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.formats.columns import column_of, read_rows

STATE = "state.json"
"""The file of `datasets` beside those of a data set, which names them."""
FILE_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class Arrow(Format):
    """Tables in the formats of Arrow's files and of its streams, with a column of strings, or of lists of tokens."""

    endings = (".arrow",)
    may_be_compressed = False

    def is_input(self, file: Path) -> bool:
        """In a folder of `datasets`, only the files that it names: others are left from `map` and `filter`."""
        names = _names_in(file.parent)
        return names is None or file.name in names

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the document of each row."""
        yield from read_rows(_batches, stream, file, reading)


def _batches(pa: ModuleType, stream: io.BufferedIOBase, key: str, place: str) -> Iterator[Any]:
    """Yield arrays of the column's values, in the order of rows."""
    is_file = stream.read(len(FILE_MAGIC)) == FILE_MAGIC
    if not is_file:
        stream.seek(-min(len(END_OF_STREAM), stream.seek(0, io.SEEK_END)), io.SEEK_END)
        if stream.read() != END_OF_STREAM:  # pyarrow would end without an error
            raise CorpusError(f"{place} is cut short, or no Arrow file: copy it again or leave it out")
    stream.seek(0)
    schema = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream).schema
    options = pa.ipc.IpcReadOptions(included_fields=[column_of(pa, schema, key, place)])
    stream.seek(0)
    if not is_file:
        yield from (batch.column(0) for batch in pa.ipc.open_stream(stream, options=options))
        return
    reader = pa.ipc.open_file(stream, options=options)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number).column(0)


def _names_in(folder: Path) -> frozenset[str] | None:
    """The files that a folder of `datasets` names, or None for another folder. Raises CorpusError."""
    path = folder / STATE
    try:
        return _read_state(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=1)
def _read_state(path: Path, mtime_ns: int) -> frozenset[str]:
    """The names in the file; `mtime_ns` makes the cache notice that it was written again."""
    try:
        fields = json.loads(read_bounded(path, limits.MANIFEST_BYTES))
        names = frozenset(str(each["filename"]) for each in fields["_data_files"])
        is_selection = bool(fields.get("_indices_data_files"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            f"{path} is not that of a data set ({repr(error)[:100]}): save it again with save_to_disk"
        ) from error
    if is_selection:
        raise CorpusError(
            f"{path.parent} holds a selection of the rows of its files: load it with `datasets`, and save "
            "dataset.flatten_indices()"
        )
    return names
